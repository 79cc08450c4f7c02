"""Which kinds of test can run here; the others are skipped with a plain reason.

The last lines of a run say which kinds did not run and why; `make test` names a file by
CAIRN_NOT_RUN to gather those of its several runs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.reports import REPORTS

ROOT = Path(__file__).resolve().parents[1]
_KINDS = {
    "root": "network namespaces",
    "tun": "real TAP devices",
    "etcd": "a real etcd",
    "browser": "a real browser",
}
_missing = pytest.StashKey[dict[str, str]]()
_skipped = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    """Look once what this machine lacks."""
    # Beside other tests an example may take long; what has a bound in time is a test of its own.
    settings.register_profile("cairn", deadline=None)
    settings.load_profile("cairn")
    # A shell's background job ignores SIGINT, and so would every program that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_missing] = {
        kind: reason for kind in _KINDS if (reason := _what_is_missing(kind)) is not None
    }
    config.stash[_skipped] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip each test whose marker names something that is missing."""
    for item in items:
        for kind, reason in config.stash[_missing].items():
            if item.get_closest_marker(kind) is not None:
                item.add_marker(pytest.mark.skip(reason=f"{_KINDS[kind]}: {reason}"))
                break


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what was skipped, from the reports: with xdist only workers see the items."""
    config = terminalreporter.config
    for report in terminalreporter.stats.get("skipped", []):
        for kind, reason in config.stash[_missing].items():
            if f"{_KINDS[kind]}: {reason}" in str(report.longrepr):
                count = config.stash[_skipped]
                count[kind] = count.get(kind, 0) + 1
                break


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say at the very end what did not run."""
    lines = [
        f"NOT RUN: {count} tests with {_KINDS[kind]}: {config.stash[_missing][kind]}"
        for kind, count in config.stash.get(_skipped, {}).items()
    ]
    for line in lines:
        print(line)
    gather = os.environ.get("CAIRN_NOT_RUN")
    if lines and gather:
        with Path(gather).open("a") as file:
            file.writelines(line + "\n" for line in lines)


def _what_is_missing(kind: str) -> str | None:
    """Return why tests of this kind can't run, or None if they can."""
    if kind == "root":
        return _no_namespaces()
    if kind == "tun":
        return _no_namespaces() or _no_tun()
    if kind == "browser":
        return _no_browser()
    return _no_etcd()


def _no_browser() -> str | None:
    if not _found("chromium"):
        return "no chromium (Debian's package; make setup installs it)"
    if not (ROOT / "build" / "console" / "index.html").is_file():
        return "the console is not built (make setup says why)"
    return None


def _no_namespaces() -> str | None:
    if os.geteuid() != 0:
        return "not root"
    lacking = [tool for tool in ("unshare", "nsenter", "ip", "nft", "tcpdump") if not _found(tool)]
    if lacking:
        return f"commands missing: {', '.join(lacking)} (make setup installs them)"
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no network namespaces: {tried.stderr.strip()}"


def _no_tun() -> str | None:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun: {error.strerror}"
    return None


def _no_etcd() -> str | None:
    given = os.environ.get("CAIRN_ETCD")
    places = [Path(given)] if given else []
    places.append(ROOT / "build" / "tools" / "etcd" / "etcd")
    if any(place.exists() for place in places) or _found("etcd"):
        return None
    return "no etcd under build/tools/etcd or on PATH (make setup gets it)"


def _found(tool: str) -> bool:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave each phase's report on the item, so that a lab knows that its test failed."""
    report = yield
    item.stash.setdefault(REPORTS, {})[report.when] = report
    return report
