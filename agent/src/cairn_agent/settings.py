"""Where the agent keeps its files, and its test settings; from flags and environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cairn_agent.errors import BadInput

UNDERLAY_PORT = 8002  # UDP between nodes and TCP to the appliances
DEFAULT_STATE_DIR = Path("/var/lib/cairn-agent")
DEFAULT_RUNTIME_DIR = Path("/run/cairn")

_TIMERS = frozenset(
    {
        "rekey_after_ms",
        "rekey_jitter_ms",
        "reject_after_ms",
        "keepalive_ms",
        "dead_after_ms",
    }
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What one agent process is told from outside."""

    state_dir: Path = DEFAULT_STATE_DIR
    runtime_dir: Path = DEFAULT_RUNTIME_DIR
    timers: Mapping[str, int] = field(default_factory=dict)  # test setting, docs/protocol.md 2.1
    dataplane: Path | None = None  # its socket, where packages put it; the runtime directory's own
    offline_trust_s: int | None = None  # test setting: overrides every vSubnet's policy
    metrics_file: Path | None = None  # for node_exporter's textfile collector

    @property
    def dataplane_socket(self) -> Path:
        """The control socket of the data plane."""
        return self.dataplane or self.runtime_dir / "dataplane.sock"

    @property
    def bridge_journal(self) -> Path:
        """How the host's ports were before they were bridged."""
        return self.state_dir / "bridges.json"

    @property
    def agent_socket(self) -> Path:
        """The socket that the agent's own commands use."""
        return self.runtime_dir / "agent.sock"


def from_environment(
    environment: Mapping[str, str], state_dir: Path | None, runtime_dir: Path | None
) -> Settings:
    """Return the settings; raise BadInput for a test setting that makes no sense."""
    return Settings(
        state_dir=state_dir or Path(environment.get("CAIRN_STATE_DIR") or DEFAULT_STATE_DIR),
        runtime_dir=runtime_dir
        or Path(environment.get("CAIRN_RUNTIME_DIR") or DEFAULT_RUNTIME_DIR),
        dataplane=_dataplane(environment, runtime_dir),
        timers=_timers(environment.get("CAIRN_TEST_TIMERS", "")),
        offline_trust_s=_seconds(environment.get("CAIRN_TEST_OFFLINE_TRUST_S", "")),
        metrics_file=_metrics_file(environment.get("CAIRN_METRICS_FILE", "")),
    )


def _dataplane(environment: Mapping[str, str], runtime_dir: Path | None) -> Path | None:
    """Return where the packages' data plane listens; a runtime directory that was asked for has
    a data plane of its own."""
    place = environment.get("CAIRN_DATAPLANE_SOCKET")
    is_asked = runtime_dir is not None or bool(environment.get("CAIRN_RUNTIME_DIR"))
    return Path(place) if place and not is_asked else None


def _metrics_file(text: str) -> Path | None:
    if not text:
        return None
    path = Path(text)
    if not path.is_absolute() or path.suffix != ".prom":
        raise BadInput(
            f"CAIRN_METRICS_FILE is {text!r}",
            "give a whole path that ends in .prom, where node_exporter looks for such files",
        )
    return path


def _timers(text: str) -> Mapping[str, int]:
    if not text:
        return {}
    try:
        timers = json.loads(text)
    except ValueError as error:
        raise BadInput(f"CAIRN_TEST_TIMERS is not JSON: {error}", "unset it") from error
    if not isinstance(timers, dict) or not timers.keys() <= _TIMERS:
        raise BadInput(
            "CAIRN_TEST_TIMERS is not an object with known timers",
            f"use only {', '.join(sorted(_TIMERS))}, or unset it",
        )
    if any(isinstance(v, bool) or not isinstance(v, int) or v <= 0 for v in timers.values()):
        raise BadInput("CAIRN_TEST_TIMERS has a value that is no positive number", "unset it")
    return timers


def _seconds(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal():
        raise BadInput("CAIRN_TEST_OFFLINE_TRUST_S is not a number of seconds", "unset it")
    return int(text)
