"""What a caller can be told: each with a cause, a remedy and a stable code.

The root is `CairnError`; the classes below it say whose fault it is, `code` says what
exactly, for programs. `api/errors.py` gives each class its HTTP status.
"""

from __future__ import annotations


class CairnError(Exception):
    """The root of everything the appliance raises for its callers."""

    code = "internal"

    def __init__(self, cause: str, *, remedy: str = "", code: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy
        self.code = code or type(self).code


class InvalidInput(CairnError):
    """The request makes no sense as it stands."""

    code = "invalid_input"


class NotFound(CairnError):
    """There is no such object."""

    code = "not_found"


class Ambiguous(CairnError):
    """A name or prefix fits more than one object."""

    code = "ambiguous"


class AlreadyExists(CairnError):
    """The name or address is taken."""

    code = "already_exists"


class InUse(CairnError):
    """Something else still depends on the object."""

    code = "in_use"


class ChangedMeanwhile(CairnError):
    """The object is not the one that the caller has seen (If-Match)."""

    code = "changed_meanwhile"


class NotAuthenticated(CairnError):
    """Nobody knows yet who is asking."""

    code = "not_authenticated"


class Refused(CairnError):
    """Known, understood, and not permitted."""

    code = "refused"


class TooMany(CairnError):
    """A limit of rate or number is reached; `retry_after_s` says for how long, if known."""

    code = "too_many"

    def __init__(
        self, cause: str, *, remedy: str = "", code: str = "", retry_after_s: int = 0
    ) -> None:
        super().__init__(cause, remedy=remedy, code=code)
        self.retry_after_s = retry_after_s
