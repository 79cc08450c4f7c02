"""What can go wrong in the lab itself (not in what it tests)."""


class LabError(Exception):
    """The lab could not do what it was asked to."""


class CommandError(LabError):
    """A command in a machine ended with an unexpected status."""

    def __init__(self, machine: str, argv: list[str], status: int, output: str) -> None:
        super().__init__(f"on {machine}: {' '.join(argv)}: exit {status}\n{output.strip()}")
        self.status = status
        self.output = output


class NotInTimeError(LabError):
    """A condition did not come true before its deadline."""
