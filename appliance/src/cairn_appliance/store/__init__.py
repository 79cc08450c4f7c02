"""The store: the one source of truth, etcd, behind a small port."""
