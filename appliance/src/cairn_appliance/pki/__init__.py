"""Keys and certificates, without I/O: authorities, sealing at rest, the map's signature."""
