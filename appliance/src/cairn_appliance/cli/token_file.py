"""For scripts: an API token from a file takes the place of a person's session.

Where the appliance is and by which CA it is known come from the last `cairn login`, or from
CAIRN_URL and CAIRN_FINGERPRINT, which are no secrets.
"""

from __future__ import annotations

import os
import stat
from contextvars import ContextVar
from pathlib import Path

from cairn_appliance.cli.connection import base_url, fetch_cas, fingerprint_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.session import Session, load

OPTION = "--token-file"
VARIABLE = "CAIRN_TOKEN_FILE"
URL, FINGERPRINT = "CAIRN_URL", "CAIRN_FINGERPRINT"
_PREFIX = "ct1_"
_MAX_OCTETS = 4096

_chosen: ContextVar[str] = ContextVar("token_file", default="")


def choose(path: str) -> None:
    """Sign in with the token in this file from now on; empty: with the session."""
    _chosen.set(path)


def chosen() -> str:
    """Return the file that was chosen, by option or variable."""
    return _chosen.get() or os.environ.get(VARIABLE, "")


def session_of(path: str) -> Session:
    """Return a session of the token in the file; raise CommandError."""
    token = _token(Path(path))
    known = load()
    given = os.environ.get(URL, "")
    url = base_url(given) if given else (known.url if known else "")
    if not url:
        raise CommandError(
            Exit.BAD_INPUT,
            "no appliance is named",
            f"set {URL}=https://APPLIANCE:8443 and {FINGERPRINT} to the SHA-256 of the cluster's "
            "CA",
        )
    if pin := _pin(os.environ.get(FINGERPRINT, "")):
        return Session(url, "", _pinned(url, pin), pin, token)
    if known is not None and known.url == url:
        return Session(url, "", known.ca, known.fingerprint, token)
    raise CommandError(
        Exit.REFUSED,
        f"{url} is not known here: the token was not sent",
        f"set {FINGERPRINT} to the SHA-256 that `cairn-appliance init` printed",
    )


def _pinned(url: str, pin: str) -> str:
    cas = {fingerprint_of(pem): pem for pem in fetch_cas(url)}
    if pin not in cas:
        raise CommandError(
            Exit.REFUSED,
            f"the CA of {url} has another fingerprint than {FINGERPRINT}: the token was not sent",
            "compare with `cairn ca status`; if yours is right, someone is in between",
        )
    return cas[pin]


def _pin(text: str) -> str:
    return text.lower().removeprefix("sha256:").replace(":", "").strip()


def _token(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise CommandError(
                    Exit.LOCAL_STATE,
                    f"{path} can be read by others",
                    f"chmod 600 {path}; if others may have read it, `cairn api-token delete ID`",
                )
            token = file.readline(_MAX_OCTETS).strip()
    except OSError as error:
        raise CommandError(
            Exit.LOCAL_STATE, f"{path} can't be read: {error.strerror}", "name a readable file"
        ) from error
    except UnicodeDecodeError as error:
        raise _no_token(path) from error
    if not token.startswith(_PREFIX):
        raise _no_token(path)
    return token


def _no_token(path: Path) -> CommandError:
    return CommandError(
        Exit.BAD_INPUT,
        f"{path} has no API token",
        f"put what `cairn api-token create` printed ({_PREFIX}...) into its first line",
    )
