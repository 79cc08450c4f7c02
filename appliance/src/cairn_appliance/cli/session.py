"""The session file: which appliance, whose CA, and the token of the session.

`$CAIRN_CONFIG_DIR/session.json`, 0600 in a directory 0700: who can read it is the user.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import msgspec

from cairn_appliance.cli.errors import CommandError, Exit


class Session(msgspec.Struct, frozen=True):
    """What `cairn login` remembers; `token` is empty after `cairn logout`."""

    url: str
    user: str
    ca: str  # PEM: the only CA that is believed
    fingerprint: str  # hex SHA-256 of the CA (DER)
    token: str = ""
    version: int = 1


def session_path() -> Path:
    """Return where the session is kept."""
    chosen = os.environ.get("CAIRN_CONFIG_DIR")
    directory = Path(chosen) if chosen else Path.home() / ".config" / "cairn"
    return directory / "session.json"


def load() -> Session | None:
    """Return the remembered session; None where there is none. Raise CommandError."""
    path = session_path()
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise CommandError(
                    Exit.LOCAL_STATE,
                    f"{path} can be read by others",
                    f"chmod 600 {path}, and `cairn logout` if others may have read it",
                )
            return msgspec.json.decode(file.read(), type=Session)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandError(
            Exit.LOCAL_STATE, f"{path} can't be read: {error.strerror}", "correct its permissions"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CommandError(
            Exit.LOCAL_STATE,
            f"{path} is no session of this version of cairn",
            f"rm {path}, then `cairn login URL`",
        ) from error


def save(session: Session) -> None:
    """Write the session at once and readable by nobody else; raise CommandError."""
    path = session_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".session")  # 0600 from the start
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(session))
                file.flush()
                os.fsync(file.fileno())
            Path(draft).replace(path)
        except OSError:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CommandError(
            Exit.LOCAL_STATE,
            f"{path} can't be written: {error.strerror}",
            "free some space or correct the permissions, or set CAIRN_CONFIG_DIR",
        ) from error
