"""From the store's objects to the lines of every node's netmap stream. No I/O.

Theory of operation. `Snapshot` is the objects as of one revision, fed by the store's
`follow`. `Topic` is one vSubnet's document: after each batch of changes it makes at most one
new version, whose delta is encoded once and signed once, whoever reads it. `Feed` is one
stream: it holds no queue but the revision up to which it has sent each document, and asks
the topics for what is missing: a few deltas, or the whole where those are gone or larger.
So a slow reader costs a few integers, what it has missed is merged by itself, and nothing
can be left out. `Netmaps` holds them together and says whom a batch concerns.
"""
