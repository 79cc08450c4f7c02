"""What this package raises."""


class PkiError(Exception):
    """The root of everything that this package raises."""


class RequestRefused(PkiError):
    """A certificate request is not one that an agent of ours makes."""


class SealBroken(PkiError):
    """A sealed secret was damaged, swapped, or sealed under another key."""
