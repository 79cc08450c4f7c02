"""`cairn`: the operator's command, a client of the operations API and of nothing else."""

from cairn_appliance.cli.app import main

__all__ = ["main"]
