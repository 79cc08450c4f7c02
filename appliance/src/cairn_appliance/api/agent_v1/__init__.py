"""`/agent/v1` on TCP 8002: what agents ask of an appliance (docs/protocol.md section 3)."""
