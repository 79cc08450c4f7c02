"""The whole cluster is lost, and restored as it was before much happened (trust.md A12).

    one LAN:   appliance   a   b   c   d   late   client

`a`, `b` and `d` are there when the backup is made. Then `c` joins, a vSubnet is made, `d` is
removed, a token is used and some hundreds of other changes are written; then the appliance's
disk is lost. Probes go between all nodes all the time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cairn_appliance.pki.backup_file import BackupReader

from tests.integration.brought_back import Before, incarnations, prove_tokens
from tests.integration.trio import writing
from tests.lab import Host, Lab, until
from tests.lab.cairn import OPS_PORT, Appliance, Network, Node, missing_programs
from tests.proofs import record, record_seconds

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

CHANGES = int(os.environ.get("CAIRN_RESTORE_CHANGES", "500"))
ABSORB_S = 40  # agents come back within 30 s


@dataclass
class World:
    lab: Lab
    appliance: Appliance
    client: Host
    prod: Network
    nodes: dict[str, Node]
    recovery_key: str


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab("restore") as lab:
        site = lab.site("dc", families="4", closed=False)
        appliance = Appliance(site.host("appliance"))
        made = appliance.init()
        appliance.start()
        appliance.login()
        prod = appliance.network("prod", "10.7.0.0/24")
        nodes = {}
        for name in ("a", "b", "d"):
            nodes[name] = Node(site.host(name))
            nodes[name].start()
            nodes[name].join(appliance.token(prod))
        for name in ("c", "late"):
            nodes[name] = Node(site.host(name))
            nodes[name].start()
        client = site.host("client")
        yield World(lab, appliance, client, prod, nodes, made["recovery_key"])


def test_a_cluster_restored_into_the_past_loses_no_packet_and_gives_no_address_twice(
    world: World,
) -> None:
    appliance, nodes, prod = world.appliance, world.nodes, world.prod
    for name in ("a", "b", "d"):
        nodes[name].address(prod)
    shared = appliance.token(prod, uses=2)
    backup = appliance.cairn("backup", "create")
    file = world.client.directory / "kept.backup"
    file.write_bytes(Path(backup["path"]).read_bytes())

    change(world, shared)
    late = nodes.pop("late")
    nodes.pop("d")
    nodes["a"].wait_for_ping(nodes["c"].address(prod), within_s=20)
    nodes["c"].wait_for_ping(nodes["b"].address(prod), within_s=20)
    members = list(nodes.values())
    assert incarnations(members) == {1}

    before = Before(world.lab, appliance, prod, members)
    appliance.kill()
    appliance.host.run(["rm", "-rf", str(appliance.data_dir)])
    time.sleep(5)
    disaster = time.monotonic()
    done = restore(world, file)
    appliance.start()
    until("it is ready", appliance.is_ready, within_s=30)
    until(
        "the nodes were heard, and hold the netmap of the restored cluster",
        lambda: incarnations(members) == {done["incarnation"]},
        within_s=180,
    )
    took = time.monotonic() - disaster
    time.sleep(3)
    before.probes.stop()

    appliance.login()
    before.prove_packets("A12", what=f"a backup, then {CHANGES} changes, all lost and restored")
    before.prove_owners("A12-owners", appliance, late, at_least=8)
    prove_tokens("A12-token", late, [shared], what="of a token of before, with one use left")
    states = {name: node["state"] for name, node in appliance.nodes().items()}
    assert states["c"] == "approved"
    assert states["d"] == "pending", "it was removed after the backup: it is in no vSubnet"
    kinds = {event["kind"] for event in appliance.events()}
    assert {"cluster_restored", "restore_absorbed", "node_reasserted"} <= kinds
    assert record_seconds(
        "A12-time",
        took,
        at_most_s=900,
        what="the same: from `restore` until every node holds the restored cluster's netmap",
    )


@pytest.mark.timeout(1200)
def test_with_all_that_there_was_only_the_last_minutes_are_lost() -> None:
    """Backups by the clock, as they are unless somebody says otherwise (trust.md A11)."""
    with Lab("backups") as lab:
        site = lab.site("dc", families="4", closed=False)
        appliance = Appliance(site.host("appliance"))
        key = appliance.init()["recovery_key"]
        appliance.start()
        appliance.login()
        client = site.host("client")
        with writing(client, [f"{appliance.host.v4}:{OPS_PORT}"], appliance.session()) as writer:
            writer.wait_for(20)
            first = newest_backup(appliance, 1, within_s=120)
            newest_backup(appliance, 2, within_s=900)
            with first.open("rb") as octets:
                gap_s = time.time() - BackupReader(octets, str(first)).head.made_at
            time.sleep(170)  # the next one is due soon
            file = client.directory / "kept.backup"
            file.write_bytes(newest_backup(appliance, 2, within_s=1).read_bytes())
            appliance.kill()
            killed = time.monotonic()
            acknowledged = [write for write in writer.acknowledged() if write.done < killed]
        appliance.host.run(["rm", "-rf", str(appliance.data_dir)])
        restore_on(appliance, file, key)
        appliance.start()
        until("it is ready", appliance.is_ready, within_s=30)
        appliance.login()
        kept = {token["id"] for token in appliance.cairn("token", "list")}
        lost = [write for write in acknowledged if write.id not in kept]
        lost_s = killed - min((write.done for write in lost), default=killed)
    assert lost, "it was killed before the next backup"
    assert record(
        "A11-backup",
        what=f"all lost, the last backup by the clock restored: of {len(acknowledged)} writes "
        f"{len(lost)} lost, of the last {lost_s:.0f} s; just before the backup before it "
        "would have been lost, at most",
        bar="<= 300 s (RPO 5 min)",
        value=round(max(gap_s, lost_s)),
        unit="s",
        holds=max(gap_s, lost_s) <= 300,
    )


def newest_backup(appliance: Appliance, count: int, *, within_s: float) -> Path:
    """Return the newest file once there are so many."""
    directory = appliance.data_dir / "backups"

    def found() -> Path | None:
        files = sorted(directory.glob("*.backup"), key=lambda each: each.stat().st_mtime)
        return files[-1] if len(files) >= count else None

    return until(f"there are {count} backups", found, within_s=within_s)


def change(world: World, token: str) -> None:
    """Do what the backup knows nothing of."""
    appliance, nodes = world.appliance, world.nodes
    nodes["c"].join(token)
    nodes["c"].address(world.prod)
    blue = appliance.network("blue", "10.8.0.0/24")
    for name in ("a", "c"):
        appliance.attach(blue, name)
        nodes[name].address(blue)
    appliance.cairn("node", "delete", "d", "--yes")
    places = [f"{appliance.host.v4}:{OPS_PORT}"]
    with writing(world.client, places, appliance.session()) as writer:
        writer.wait_for(CHANGES, within_s=240)


def restore(world: World, file: Path) -> dict[str, Any]:
    return restore_on(world.appliance, file, world.recovery_key)


def restore_on(appliance: Appliance, file: Path, key: str) -> dict[str, Any]:
    command = ["cairn-appliance", "restore", str(file), "--data-dir", str(appliance.data_dir)]
    command += ["--others-are-lost", "--absorb-within", str(ABSORB_S), "--json"]
    done = appliance.host.run(command, stdin=key + "\n", within_s=90)
    restored: dict[str, Any] = json.loads(done.stdout)
    return restored
