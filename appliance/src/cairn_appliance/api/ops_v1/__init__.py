"""The operations API `/api/v1` on TCP 8443: people and their tools."""
