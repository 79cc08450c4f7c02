"""`cairn audit` against a server, and a file without any."""

from __future__ import annotations

import json
from pathlib import Path

from cairn_appliance.store import keys
from cairn_appliance.store.port import Put

from tests.unit.appliance.cli.conftest import Live, Shell


def test_it_is_listed_shown_exported_and_verified_offline(
    logged_in: Shell, live: Live, tmp_path: Path
) -> None:
    logged_in.ok("vsubnet", "create", "office", "--prefix", "10.7.0.0/24")
    listed = logged_in.ok("audit", "list", "--action", "POST")
    assert "done     admin  POST /api/v1/vsubnets  name=office" in listed
    line = json.loads(logged_in.ok("audit", "list", "--json", "--actor", "admin"))
    shown = logged_in.ok("audit", "show", line["request_id"])
    assert "operator admin admin from 127.0.0.1" in shown
    assert logged_in("audit", "show", "nothing").code == 2

    told = logged_in.ok("audit", "verify")
    assert "whole" in told
    key = told.rpartition("audit key  ")[2].strip()
    file, table = tmp_path / "audit.jsonl", tmp_path / "audit.csv"
    logged_in.ok("audit", "export", "-o", str(file))
    logged_in.ok("audit", "export", "-o", str(table), "--format", "csv")
    assert table.read_text().startswith('"sequence"')
    assert logged_in("audit", "export", "-o", str(file)).code == 2
    assert file.stat().st_mode & 0o777 == 0o600

    live.stop()
    assert "whole" in logged_in.ok("audit", "verify", "--file", str(file), "--key", key)
    octets = file.read_bytes()
    cases = {
        "changed": octets.replace(b"office", b"0ffice"),
        "shorter": b"\n".join(octets.splitlines()[:-1]) + b"\n",
        "cut": octets[:-1],
        "without": b"\n".join(octets.splitlines()[1:]) + b"\n",
        "empty": b"",
    }
    for name, bad in cases.items():
        changed = tmp_path / name
        changed.write_bytes(bad)
        ended = logged_in("audit", "verify", "--file", str(changed), "--key", key)
        assert ended.code == 5, name
        assert "is not as it was" in ended.err
    other = key[:-4] + "AAA="
    assert logged_in("audit", "verify", "--file", str(file), "--key", other).code in (2, 5)
    assert logged_in("audit", "verify", "--file", str(file), "--key", "no").code == 2


def test_tampering_is_told_and_can_be_accepted(logged_in: Shell, live: Live) -> None:
    logged_in.ok("vsubnet", "create", "office", "--prefix", "10.7.0.0/24")
    assert "nothing to accept" in logged_in.ok("audit", "accept")

    async def tamper() -> None:
        store = live.operations.store
        item = (await store.list(keys.audit_of("r1"))).items[0]
        await store.commit([], [Put(item.key, item.value.replace(b"office", b"0ffice"))])

    live.do(tamper())
    ended = logged_in("audit", "verify")
    assert ended.code == 5
    assert "BROKEN" in ended.out
    assert "r1: record" in ended.err
    found = json.loads(logged_in("audit", "verify", "--json").out)
    assert found["ok"] is False
    assert logged_in("audit", "accept").code == 2, "it asks, and nobody is there to answer"
    logged_in.ok("audit", "accept", "--yes")
    assert "whole" in logged_in.ok("audit", "verify")
