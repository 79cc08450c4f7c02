"""The messages between agent and appliance; the appliance imports these too.

Every struct is encoded by msgspec in its declared field order, which is also the
canonical JSON of the netmap's digests (docs/protocol.md section 3.1). Unknown fields
are ignored, so that N-1 and N understand each other.
"""
