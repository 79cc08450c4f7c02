"""The lab: topologies of network namespaces for tests and for the demo.

    with Lab("example") as lab:
        cloud, office = lab.site("cloud"), lab.site("office", nat="masquerade")
        a, b = cloud.host("a"), office.host("b")
        a.run(["ping", "-c", "1", b.v4])

Needs root. Everything dies with the process that made the lab.
"""

from tests.lab.capture import Capture, Packet, parse, read_pcap
from tests.lab.errors import CommandError, LabError, NotInTimeError
from tests.lab.machine import ROOT, Machine
from tests.lab.probes import Pair, Probes
from tests.lab.program import Program
from tests.lab.topology import Host, Impairment, Lab, Site
from tests.lab.wait import until

__all__ = [
    "ROOT",
    "Capture",
    "CommandError",
    "Host",
    "Impairment",
    "Lab",
    "LabError",
    "Machine",
    "NotInTimeError",
    "Packet",
    "Pair",
    "Probes",
    "Program",
    "Site",
    "parse",
    "read_pcap",
    "until",
]
