"""docs/monitoring: what the dashboard and the rules ask for is what is told."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cairn_agent.metrics import exposition
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.cluster import Replica
from cairn_appliance.domain.figures import OwnFigures
from cairn_appliance.domain.output import Receivers, Syslog, Transport
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Put, Reset

from tests.unit.agent.test_metrics import STATUS
from tests.unit.appliance.operations import Operations, operations

DIRECTORY = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
DASHBOARD = DIRECTORY / "grafana.json"
RULES = DIRECTORY / "alerts.yml"
PROMTOOL = Path(__file__).resolve().parents[2] / "build/tools/promtool"
_SERIES = re.compile(r"\bcairn_[a-z0-9_]+")
_SAMPLE = re.compile(r"^(cairn_[a-z0-9_]+)(?:\{(.*)\})? ", re.MULTILINE)
_SELECTED = re.compile(r"\b(cairn_[a-z0-9_]+)\{([a-z]+)=")
_LABEL = re.compile(r'([a-z_]+)="')
_MADE_BY_PROMETHEUS = {"instance", "job"}


def expressions() -> list[str]:
    """Return every expression of both files."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return asked + [rule["expr"] for rule in rules()]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]
            for rule in group["rules"]]  # fmt: skip


async def told() -> str:
    """Scrape an appliance and an agent that have everything there is."""
    ops = operations()
    ops.app.state.ops = _with_figures(ops)
    await ops.add_user("admin", Role.ADMIN)
    async with ops.client(await ops.session()) as admin:
        await admin.post("/api/v1/vsubnets", json={"name": "office"})
        await admin.post("/api/v1/segments", json={"name": "lan", "vsubnet": "office"})
        await ops.join("web-1", "office", site="here")
        running = Replica("m1", "0.1.0", 1.0)
        await ops.store.commit([], [Put(keys.replica("m1"), records.replicas.encode(running))])
        await admin.put("/api/v1/backups/key", json={"public_key": "A" * 42 + "8="})
        await admin.post("/api/v1/backups")
        listing = await ops.store.list(keys.MAP)
        ops.services.netmaps.take([Reset(listing.revision, listing.items)])
        ops.services.outputs._receivers = Receivers((Syslog("s1", "log", 514, Transport.UDP),))
        text = (await admin.get("/metrics")).text
    return text + exposition(STATUS, 0.0).decode()


def _with_figures(ops: Operations) -> Any:
    from dataclasses import replace

    own = OwnFigures(0.01, 2, (("pki/api.pem", 1_795_000_000.0),))
    return replace(ops.app.state.ops, own=lambda: own)


async def test_what_is_asked_for_is_told() -> None:
    text = await told()
    labels: dict[str, set[str]] = {}
    for name, told_labels in _SAMPLE.findall(text):
        labels.setdefault(name, set()).update(_LABEL.findall(told_labels or ""))

    asked = {name for each in expressions() for name in _SERIES.findall(each)}
    assert asked - labels.keys() == set()
    selected = {pair for each in expressions() for pair in _SELECTED.findall(each)}
    wrong = {(name, label) for name, label in selected
             if label not in labels[name] | _MADE_BY_PROMETHEUS}  # fmt: skip
    assert wrong == set()
    assert len(asked) > 35


def test_each_rule_says_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert rule["annotations"]["remedy"], rule["alert"]
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)


def test_remedies_name_sections_that_there_are() -> None:
    sections = re.findall(r"^## (\w+)", (DIRECTORY.parent / "operate/alarms.md").read_text(),
                          re.MULTILINE)  # fmt: skip
    for rule in rules():
        for name in re.findall(r"alarms\.md, (\w+)", rule["annotations"]["remedy"]):
            assert name in sections


def test_panels_are_drawn_beside_each_other_and_have_ids_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    places = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in _cells(place):
            assert cell not in places, panel["title"]
            places.add(cell)


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


@pytest.mark.slow  # `make console-test` gets promtool
async def test_promtool_reads_the_rules_the_expressions_and_the_scrape(tmp_path: Path) -> None:
    from_dashboard = tmp_path / "dashboard.yml"
    recorded = [
        {"record": f"r:{number}", "expr": each.replace("$node", ".*")}
        for number, each in enumerate(expressions())
    ]
    from_dashboard.write_text(yaml.safe_dump({"groups": [{"name": "d", "rules": recorded}]}))
    for path in (RULES, from_dashboard):
        checked = subprocess.run(
            [PROMTOOL, "check", "rules", path], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
    scrape = subprocess.run(
        [PROMTOOL, "check", "metrics"],
        input=await told(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert scrape.returncode == 0, scrape.stdout + scrape.stderr
