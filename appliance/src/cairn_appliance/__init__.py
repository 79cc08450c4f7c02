"""The Cairn appliance: enrolment, mapping service and operations API."""

from importlib.metadata import version

__version__ = version("cairn-appliance")
