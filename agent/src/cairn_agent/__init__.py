"""The Cairn agent: joins a host to vSubnets and keeps it there."""
