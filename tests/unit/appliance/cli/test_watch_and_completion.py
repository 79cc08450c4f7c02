"""`--watch`, completion and confirmations, with `cairn` as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cairn_appliance.cli import output
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.segment import Guards, Preference
from cairn_appliance.services.segments import SegmentOrder
from cairn_appliance.store import keys
from cairn_appliance.store.port import Reset

from tests.unit.appliance.cli.conftest import Live, Shell

CAIRN = [sys.executable, "-c", "from cairn_appliance.cli import main; main()"]
TROUBLESHOOTING = Path(__file__).resolve().parents[4] / "docs" / "troubleshooting.md"


@pytest.fixture
def office(live: Live, logged_in: Shell) -> Iterator[Shell]:
    """Yield the command at an appliance with a vSubnet and two nodes."""
    logged_in.ok("vsubnet", "create", "office", "--prefix", "10.7.0.0/24")
    live.do(live.operations.join("web-1", "office"))
    live.do(live.operations.join("web-2", "office"))
    yield logged_in


def started(*arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CAIRN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
    )


def test_watching_goes_on_until_ctrl_c_and_is_a_json_line_each_time(
    live: Live, office: Shell
) -> None:
    watching = started("node", "list", "--watch", "--json")
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    live.do(live.operations.join("web-3", "office"))
    second = json.loads(watching.stdout.readline())
    watching.send_signal(signal.SIGINT)
    rest, errors = watching.communicate(timeout=20)

    assert [each["name"] for each in first] == ["web-1", "web-2"]
    assert [each["name"] for each in second] == ["web-1", "web-2", "web-3"]
    assert (watching.returncode, rest, errors) == (0, "", "")


def test_watching_survives_an_appliance_that_goes(live: Live, office: Shell) -> None:
    watching = started("node", "list", "--watch")
    assert watching.stdout is not None
    assert watching.stderr is not None
    assert "NAME" in watching.stdout.readline()
    live.stop()
    assert "can't be reached" in watching.stderr.readline()
    assert watching.poll() is None
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=20)
    assert watching.returncode == 0


def test_only_what_shows_is_watched(office: Shell) -> None:
    for command in (("node", "delete", "web-1", "--yes"), ("vsubnet", "create", "x")):
        ended = office(*command, "--watch")
        assert ended.code == 2
        assert "leave --watch out" in ended.err
    assert "web-1" in office.ok("node", "list")
    ended = office("node", "show", "nobody", "--watch")
    assert ended.code == 2  # it will not pass by itself


def completed(words: str, **more: str) -> tuple[list[str], str, float]:
    begun = time.monotonic()
    asked = started(
        _CAIRN_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
        **more,
    )
    out, err = asked.communicate(timeout=30)
    return out.split(), err, time.monotonic() - begun


def test_names_are_completed_and_silently_not_where_nobody_answers(
    live: Live, office: Shell
) -> None:
    assert completed("cairn node show we")[:2] == (["web-1", "web-2"], "")
    assert completed("cairn vsubnet show off")[:2] == (["office"], "")
    assert "event-output" in completed("cairn event")[0]
    live.stop()
    assert completed("cairn node show we")[:2] == ([], "")
    assert completed("cairn node show we", CAIRN_CONFIG_DIR="/nowhere")[:2] == ([], "")


def test_confirmations_say_how_many_are_touched(
    live: Live, office: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def note(question: str, lost: list[str], *, yes: bool) -> None:
        if not yes:
            asked.extend([question, *lost])
            raise CommandError(Exit.REFUSED, "not confirmed")

    monkeypatch.setattr(output, "confirm", note)
    office("vsubnet", "rotate", "office", "--revoke-now")
    assert "2 members" in asked[-1]
    listing = live.do(live.operations.store.list(keys.MAP))
    live.operations.services.netmaps.take([Reset(listing.revision, listing.items)])
    office.ok("ca", "rotate", "--yes")
    office("ca", "issue")
    assert "2 of 2 nodes are behind" in asked[-1]
    office("map-key", "use")
    assert any("nodes are behind" in each for each in asked[-2:])
    order = SegmentOrder("lan", "office", Preference.SAFETY, Guards())
    live.do(live.operations.services.segments.create(order, SYSTEM))
    office("gateway", "stop", "lan")
    assert "0 gateways of it forward nothing" in asked[-1]


def test_exit_codes_are_those_that_are_documented() -> None:
    text = TROUBLESHOOTING.read_text("utf-8")
    table = text.partition("## Exit codes")[2].partition("##")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert documented == {int(each) for each in Exit} | {130}
