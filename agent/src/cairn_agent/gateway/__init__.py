"""Gateway mode: who forwards between a LAN segment and a vSubnet, and what must never loop.

docs/protocol.md section 5. `standing` is the rule of one segment, without I/O and without a
clock; `duty` runs it; the rest of the modules each do one thing for it.
"""
