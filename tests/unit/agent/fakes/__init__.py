"""Stand-ins that speak the real protocols: an appliance over TLS, a data plane over its socket."""
