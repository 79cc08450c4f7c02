"""The netmap held by the agent, and what follows from it. No I/O.

`held` applies the stream's messages and believes nothing unsigned or old; `desired` turns
a netmap into what the data plane and the host should be; `trust` says for how long a
netmap may be used without an appliance.
"""
