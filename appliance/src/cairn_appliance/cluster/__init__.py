"""What makes and keeps a cluster: bootstrap, the embedded etcd, later membership and backup."""
