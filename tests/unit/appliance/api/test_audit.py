"""Every change is in the audit before it is made, and none is made without."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Sequence
from urllib.parse import quote

import httpx
import pytest
from cairn_appliance.api.ops_v1.matrix import MATRIX, PUBLIC, is_recorded
from cairn_appliance.domain import audit
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.audit import Entry, Kind, Outcome
from cairn_appliance.pki.audit_key import reading_seal
from cairn_appliance.services.audit_chains import Shown
from cairn_appliance.services.audit_disk import NoFiles
from cairn_appliance.store import keys
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Compare, Delete, Full, Item, Put, StoreError, Unavailable

from tests.unit.appliance.api.test_matrix import routes_of, url
from tests.unit.appliance.operations import PASSWORD, Operations

CANARY = "canary-of-the-audit-7f3a"
# What a request may write that is no change: who was seen, guesses, answers kept.
_NO_CHANGE = (keys.SESSIONS, keys.LOGIN_FAILURES, keys.IDEMPOTENCY, keys.AUDIT)


async def shown(ops: Operations) -> list[Shown]:
    return list(await ops.services.audit.shown())


async def actions(ops: Operations) -> list[tuple[str, str, int]]:
    return [
        (each.record.entry.action, each.outcome, each.ended.entry.status if each.ended else 0)
        for each in await shown(ops)
    ]


async def content(ops: Operations) -> dict[str, bytes]:
    items = (await ops.store.list(keys.ROOT)).items
    return {item.key: item.value for item in items if not item.key.startswith(_NO_CHANGE)}


class Failing:
    """Makes the store refuse the audit's records, or all that is put."""

    def __init__(self, store: MemoryStore, error: StoreError, only: str = keys.AUDIT) -> None:
        self._commit = store.commit
        self._store = store
        self._error = error
        self._only = only

    def __enter__(self) -> None:
        self._store.commit = self.commit  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self._store.commit = self._commit  # type: ignore[method-assign]

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int:
        if any(isinstance(each, Put) and each.key.startswith(self._only) for each in writes):
            raise self._error
        return await self._commit(compares, writes)


def changing(ops: Operations) -> list[tuple[str, str]]:
    """Every route of the application itself that changes something; logout ends the session."""
    found = [each for each in routes_of(ops.app) if is_recorded(*each)]
    return sorted(found, key=lambda each: each[1].endswith("/logout"))


@pytest.mark.parametrize(
    "pasted",
    ["cairn1.eyJhIjoxfQ_-abc", "cairn-join1.eyJhIjoxfQ-abc", "cs1_Zm9vYmFy-_1", "ct1_Zm9vYmFy-_1"],
)
async def test_a_secret_in_the_wrong_place_is_not_recorded(ops: Operations, pasted: str) -> None:
    """A script that deletes a token by its string: it is good still, and many see the audit."""
    async with ops.client(await ops.session()) as admin:
        await admin.delete(f"/api/v1/tokens/{pasted}")
        await admin.post("/api/v1/nodes/web-1/reject", json={"reason": f"came with {pasted}"})
        export = (await admin.get("/api/v1/audit/export")).text
    kind = pasted[: pasted.index(".") + 1] if "." in pasted else pasted[:4]
    targets = [each.record.entry.target for each in await shown(ops)]
    assert f"/api/v1/tokens/{kind}..." in targets
    stored = b"".join(item.value for item in (await ops.store.list(keys.AUDIT)).items)
    assert f"came with {kind}...".encode() in stored
    assert pasted.encode() not in stored
    assert pasted not in export


async def test_every_route_that_changes_something_is_recorded(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    routes = changing(ops)
    assert {method for method, _ in routes} >= {"POST", "PUT", "PATCH", "DELETE"}
    for method, path in routes:
        answer = await admin.request(method, url(path), json={"name": "x"})
        assert answer.status_code != 405
        newest = (await shown(ops))[0]
        entry = newest.record.entry
        assert entry.action == f"{method} {path}"
        assert entry.target == url(path)
        assert answer.headers["x-request-id"] == entry.request
        assert newest.outcome == {2: Outcome.DONE, 4: Outcome.REFUSED}[answer.status_code // 100]
        if MATRIX[method, path] is not PUBLIC:
            assert (entry.who.name, entry.who.role) == ("admin", "admin")
            assert entry.who.address == "192.0.2.50"
            assert newest.ended is not None
            assert newest.ended.entry.status == answer.status_code
    assert (await ops.services.audit.verify()).is_ok


async def test_reading_is_not_recorded(ops: Operations, admin: httpx.AsyncClient) -> None:
    for path in ("/api/v1/nodes", "/api/v1/audit", "/api/v1/audit/verify", "/api/v1/session"):
        assert (await admin.get(path)).status_code == 200
    assert await shown(ops) == []


@pytest.mark.parametrize("error", [Unavailable("away"), Full("full")])
async def test_what_cannot_be_recorded_does_not_happen(
    ops: Operations, admin: httpx.AsyncClient, error: StoreError
) -> None:
    await admin.post("/api/v1/vsubnets", json={"name": "office", "prefixes": ["10.7.0.0/24"]})
    await ops.join("web-1", "office")
    before = await content(ops)
    bodies = {
        "/api/v1/vsubnets": {"name": "other"},
        "/api/v1/tokens": {"vsubnets": ["office"]},
        "/api/v1/segments": {"name": "lan", "vsubnet": "office"},
        "/api/v1/vsubnets/{vsubnet}/members": {"node": "web-1"},
    }
    with Failing(ops.store, error):
        for method, path in changing(ops):
            is_deletion = method == "DELETE" or path.endswith("/logout")
            if MATRIX[method, path] is PUBLIC or (isinstance(error, Full) and is_deletion):
                continue
            answer = await admin.request(
                method, url(path), json=bodies.get(path, {}), headers={"If-Match": "*"}
            )
            assert answer.status_code == 503, (method, path)
            assert answer.json()["code"] in ("unavailable", "store_full")
            assert await content(ops) == before, (method, path)
    answer = await admin.post("/api/v1/tokens", json={"vsubnets": ["office"]})
    assert answer.status_code == 201, "it goes on as soon as there is an audit"


async def test_a_login_that_cannot_be_recorded_gives_no_session(ops: Operations) -> None:
    async with ops.client() as client:
        with Failing(ops.store, Unavailable("away")):
            body = {"name": "admin", "password": PASSWORD}
            answer = await client.post("/api/v1/login", json=body)
    assert answer.status_code == 503
    assert "cs1_" not in answer.text + str(answer.headers)


async def test_logins_are_recorded_and_no_name_that_may_be_a_password(ops: Operations) -> None:
    await ops.login()
    async with ops.client() as client:
        for name in ("admin", CANARY, "zanzibar"):
            body = {"name": name, "password": "wrong wrong wrong"}
            assert (await client.post("/api/v1/login", json=body)).status_code == 401
    found = [(each.record.entry.who.name, each.outcome) for each in await shown(ops)]
    assert found == [("", "refused"), ("", "refused"), ("admin", "refused"), ("admin", "done")]
    lines = b"".join([item.value for item in (await ops.store.list(keys.AUDIT)).items])
    for secret in (PASSWORD, CANARY, "wrong wrong", "zanzibar"):
        assert secret.encode() not in lines


async def test_who_may_not_is_recorded_and_does_not_fill_the_audit(ops: Operations) -> None:
    await ops.add_user("looker", Role.VIEWER)
    async with ops.client(await ops.session("looker")) as client:
        for _ in range(150):
            assert (await client.post("/api/v1/vsubnets", json={"name": "x"})).status_code == 403
    found = await shown(ops)
    assert len(found) == 100
    assert {(each.record.entry.kind, each.record.entry.who.name) for each in found} == {
        (Kind.REFUSED, "looker")
    }
    assert (await ops.store.list(keys.VSUBNETS)).items == ()


async def test_secrets_of_a_body_are_told_by_no_record(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    secret = {
        name: CANARY
        for name in ("password", "secret", "token", "key", "string", "code", "old", "new", "field")
    }
    body = {**secret, "name": "fine", "policy": {"bum_pps": 5, **secret}, "labels": secret}
    for method, path in changing(ops):
        await admin.request(method, url(path), json=body)
    items = (await ops.store.list(keys.AUDIT)).items
    assert CANARY not in "".join(item.value.decode() for item in items)
    await admin.post("/api/v1/logout")
    details = [each.record.entry.details for each in await shown(ops)]
    assert {"name": "fine", "policy.bum_pps": "5"} in details


async def test_an_answer_that_is_given_again_says_so(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    for _ in range(2):
        answer = await admin.post(
            "/api/v1/vsubnets",
            json={"name": "office"},
            headers={"Idempotency-Key": "a-key-of-sixteen-characters"},
        )
        assert answer.status_code == 201
    again, first = await shown(ops)
    assert again.ended is not None
    assert first.ended is not None
    assert again.ended.entry.details == {"replayed": "true", "id": answer.json()["id"]}
    assert first.ended.entry.details == {"id": answer.json()["id"]}
    assert first.record.entry.digest == again.record.entry.digest != ""


async def test_a_body_that_is_too_large_is_refused_as_before(admin: httpx.AsyncClient) -> None:
    answer = await admin.post("/api/v1/vsubnets", content=b"x" * (2 << 20))
    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"


async def test_while_the_store_is_full_deletions_are_recorded_on_disk(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    made = await admin.post("/api/v1/tokens", json={})
    with Failing(ops.store, Full("full"), only=keys.ROOT):
        refused = await admin.post("/api/v1/tokens", json={})
        gone = await admin.delete(f"/api/v1/tokens/{made.json()['id']}")
        assert gone.status_code == 204, gone.text
        assert refused.json()["code"] == "store_full"
        assert await ops.store.get(keys.token(made.json()["id"])) is None
        with pytest.raises(Full):
            await ops.services.audit.catch_up()
    await ops.services.audit.catch_up()
    late = [each for each in await shown(ops) if "late" in each.record.entry.details]
    assert [each.record.entry.action for each in late] == ["DELETE /api/v1/tokens/{token}"]
    assert late[0].record.entry.who.name == "admin"


async def test_a_deletion_that_the_disk_refuses_too_does_not_happen(
    ops: Operations, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await admin.post("/api/v1/tokens", json={})

    def refuse(_: NoFiles, __: bytes) -> None:
        raise audit_error

    audit_error = Full("the disk as well")
    monkeypatch.setattr(NoFiles, "spool", refuse)
    with Failing(ops.store, Full("full"), only=keys.ROOT):
        answer = await admin.delete(f"/api/v1/tokens/{made.json()['id']}")
    assert answer.status_code == 503
    assert await ops.store.get(keys.token(made.json()["id"])) is not None


async def test_it_is_listed_filtered_and_paged(ops: Operations, admin: httpx.AsyncClient) -> None:
    for number in range(5):
        await admin.post("/api/v1/vsubnets", json={"name": f"net-{number}"})
        ops.clock.advance(60)
    await admin.delete("/api/v1/vsubnets/net-1", headers={"If-Match": "*"})
    await ops.services.audit.checkpoint()

    page = (await admin.get("/api/v1/audit", params={"limit": 4})).json()
    more = (await admin.get("/api/v1/audit", params={"limit": 4, "cursor": page["next"]})).json()
    items = page["items"] + more["items"]
    assert more["next"] is None
    assert [each["action"].split()[0] for each in items] == ["DELETE"] + ["POST"] * 5
    assert items[0]["outcome"] == "done"
    assert items[0]["actor"]["name"] == "admin"
    assert items[1]["details"]["name"] == "net-4"
    assert [each["sequence"] for each in items] == sorted(
        (each["sequence"] for each in items), reverse=True
    )

    async def of(**query: str) -> list[str]:
        found = (await admin.get("/api/v1/audit", params=query)).json()["items"]
        return [each["target"] for each in found]

    assert len(await of(action="post")) == 5
    assert await of(target="net-1") == ["/api/v1/vsubnets/net-1"]
    assert await of(actor="nobody") == []
    assert len(await of(since=items[2]["at"])) == 3
    assert len(await of(until=items[2]["at"])) == 3
    assert len(await of(request=items[0]["request_id"])) == 1


async def test_the_export_is_verified_without_an_appliance(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await admin.post("/api/v1/vsubnets", json={"name": "office"})
    await ops.services.audit.checkpoint()
    told = (await admin.get("/api/v1/audit/verify")).json()
    assert told["ok"] is True
    lines = (await admin.get("/api/v1/audit/export")).content.splitlines()
    _, reports = audit.examine_file(lines, reading_seal(told["cluster"], told["key"]))
    assert [(each.appliance, each.problem, each.checkpoints) for each in reports] == [("r1", "", 1)]
    assert any(b"audit/export" in line for line in lines), "taking it away is recorded"
    bad = [line.replace(b"office", b"offiCe") for line in lines]
    _, reports = audit.examine_file(bad, reading_seal(told["cluster"], told["key"]))
    assert reports[0].problem


async def test_csv_holds_no_formula_and_no_hidden_character(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    for name in ('=cmd|"/c calc"!A1', "@SUM(1)", "  +1", "\u202eevil", "a\nb", '"q",'):
        await admin.post("/api/v1/preflights", json={"node": name, "name": name})
        await admin.delete(f"/api/v1/vsubnets/{quote(name.replace('/', ''), safe='')}")
    text = (await admin.get("/api/v1/audit/export", params={"format": "csv"})).text
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0][0] == "sequence"
    assert len(rows) > 12
    for cell in [cell for row in rows[1:] for cell in row]:
        assert not cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
        assert cell.isprintable()
    assert (await admin.get("/api/v1/audit/export", params={"format": "xls"})).status_code == 422


async def tampered(ops: Operations, number: int = 1) -> None:
    item = (await ops.store.list(keys.audit_of("r1"))).items[number]
    await ops.store.commit([], [Put(item.key, item.value.replace(b"admin", b"nobod"))])


async def test_tampering_is_an_alarm_until_it_is_accepted(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    for number in range(4):
        await admin.post("/api/v1/vsubnets", json={"name": f"net-{number}"})
    audit_service = ops.services.audit
    assert (await audit_service.verify()).is_ok
    assert audit_service.signs == ()
    await tampered(ops)

    told = (await admin.get("/api/v1/audit/verify")).json()
    assert told["ok"] is False
    assert "record 3 doesn't follow" in told["chains"][0]["problem"]
    assert [sign.name for sign in audit_service.signs] == [Alarm.AUDIT_BROKEN]
    events = [event.kind for event in await ops.services.events.latest()]
    await audit_service.verify()
    assert events.count("audit_broken") == 1
    assert (await admin.post("/api/v1/vsubnets", json={"name": "goes-on"})).status_code == 201

    accepted = await admin.post("/api/v1/audit/accept")
    assert accepted.json()["ok"] is True, accepted.text
    assert audit_service.signs == ()
    assert (await admin.post("/api/v1/vsubnets", json={"name": "after"})).status_code == 201
    assert (await audit_service.verify()).is_ok
    began = [each.record.entry for each in await shown(ops) if each.record.entry.kind == "began"]
    assert began[0].details["by"] == "admin"


async def test_what_is_put_back_to_an_older_state_is_noticed(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await admin.post("/api/v1/vsubnets", json={"name": "first"})
    await ops.services.audit.flush()
    old = (await ops.store.list(keys.audit_of("r1"))).items
    await admin.post("/api/v1/vsubnets", json={"name": "hidden"})
    await ops.services.audit.flush()
    await put_back(ops, old)
    found = await ops.services.audit.verify()
    assert "this appliance has seen them" in found.chains[0].problem
    for number in range(6):  # and does not become whole by what is written after it
        assert (
            await admin.post("/api/v1/vsubnets", json={"name": f"on-{number}"})
        ).status_code == 201
    assert not (await ops.services.audit.verify()).is_ok


async def put_back(ops: Operations, old: Sequence[Item]) -> None:
    now = {item.key for item in (await ops.store.list(keys.audit_of("r1"))).items}
    gone = now - {item.key for item in old}
    await ops.store.commit([], [*map(Delete, gone), *(Put(i.key, i.value) for i in old)])


async def test_a_head_that_is_gone_hides_nothing(ops: Operations, admin: httpx.AsyncClient) -> None:
    await admin.post("/api/v1/vsubnets", json={"name": "first"})
    await ops.services.audit.flush()
    await ops.store.commit([], [Delete(keys.audit_head("r1"))])
    assert not (await ops.services.audit.verify()).is_ok
    assert (await admin.post("/api/v1/vsubnets", json={"name": "second"})).status_code == 201
    assert not (await ops.services.audit.verify()).is_ok
    assert (await admin.post("/api/v1/audit/accept")).json()["ok"] is True


@pytest.mark.parametrize("key", ["evil", "e vil/1", "r1/999999999999", "r1/x", "m9/head", "/"])
async def test_what_was_added_is_found_and_can_be_put_aside(
    ops: Operations, admin: httpx.AsyncClient, key: str
) -> None:
    await admin.post("/api/v1/vsubnets", json={"name": "first"})
    await ops.services.audit.flush()
    await ops.store.commit([], [Put(keys.AUDIT + key, b"{}")])
    assert not (await ops.services.audit.verify()).is_ok
    accepted = await admin.post("/api/v1/audit/accept")
    assert accepted.json()["ok"] is True, accepted.text
    assert (await admin.post("/api/v1/vsubnets", json={"name": "after"})).status_code == 201
    assert (await ops.services.audit.verify()).is_ok


async def test_a_look_does_all_that_is_due(ops: Operations) -> None:
    service = ops.services.audit
    await service.look()
    assert (await ops.store.list(keys.AUDIT)).items == (), "nothing was changed: nothing is written"
    for _ in range(150):
        service.refused(Entry(Kind.REFUSED, 1))
    await service.look()
    revision = (await ops.store.list(keys.AUDIT)).revision
    await service.look()
    await service.look()
    assert (await ops.store.list(keys.AUDIT)).revision == revision, "it comes to rest"
    newest = (await shown(ops))[0].record.entry
    assert newest.details == {"more": "50"}
    assert (await service.verify()).chains[0].checkpoints == 1


async def test_a_write_in_doubt_is_looked_at_and_told(ops: Operations) -> None:
    service = ops.services.audit
    commit = ops.store.commit

    async def doubtful(compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int:
        await commit(compares, writes)
        raise Unavailable("no answer in time")

    ops.store.commit = doubtful  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await service.ask(Entry(Kind.ASKED, 1, request="doubt", action="POST /x"))
    ops.store.commit = commit  # type: ignore[method-assign]
    await service.ask(Entry(Kind.ASKED, 2, request="next", action="POST /y"))
    found = {each.record.entry.request: each.outcome for each in await shown(ops)}
    assert found == {"doubt": "refused", "next": "unknown"}
    assert (await service.verify()).is_ok


async def test_requests_that_come_at_once_share_their_transactions(ops: Operations) -> None:
    service = ops.services.audit
    commits = 0
    commit = ops.store.commit

    async def slow(compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int:
        nonlocal commits
        commits += 1
        await asyncio.sleep(0.002)
        return await commit(compares, writes)

    ops.store.commit = slow  # type: ignore[method-assign]
    asked = [Entry(Kind.ASKED, n, request=f"r{n}", action="POST /x") for n in range(200)]
    await asyncio.gather(*(service.ask(entry) for entry in asked))
    assert commits <= 6
    assert len(await shown(ops)) == 200
    assert (await service.verify()).is_ok


async def test_who_is_cut_off_while_waiting_leaves_no_record(ops: Operations) -> None:
    service = ops.services.audit
    commit = ops.store.commit
    go_on = asyncio.Event()

    async def slow(compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int:
        await go_on.wait()
        return await commit(compares, writes)

    ops.store.commit = slow  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(service.ask(Entry(Kind.ASKED, 1, request="first")))
        second = tasks.create_task(service.ask(Entry(Kind.ASKED, 2, request="second")))
        for _ in range(5):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        go_on.set()
    assert not first.cancelled()
    assert [each.record.entry.request for each in await shown(ops)] == ["first"]


async def test_old_records_go_to_the_archive_and_the_rest_stays_whole(ops: Operations) -> None:
    service = ops.services.audit
    files = NoFiles()
    service._files = files
    service.kept = 100
    for number in range(800):
        service.end(Entry(Kind.BEGAN, number, details={"number": str(number)}))
    await service.checkpoint()
    assert await service.prune({"r1"}) == 701
    assert (await service.verify()).is_ok
    assert len(await shown(ops)) == 99
    ((name, lines),) = files.kept.items()
    assert name == "r1-000000000001-000000000701.jsonl"
    seal = reading_seal(service.cluster, service.public_key)
    _, reports = audit.examine_file(lines, seal)
    assert (reports[0].records, reports[0].problem) == (701, "")
    await service.ask(Entry(Kind.ASKED, 1, request="on"))
    assert (await service.verify()).is_ok
    # Deleting what is said to be in the archive is no way to hide it.
    items = (await ops.store.list(keys.audit_of("r1"))).items
    await ops.store.commit([], [Delete(item.key) for item in items[:20]])
    assert not (await service.verify()).is_ok


async def test_records_are_json_that_anybody_can_check(ops: Operations) -> None:
    await ops.services.audit.ask(Entry(Kind.ASKED, 1, request="a"))
    await ops.services.audit.ask(Entry(Kind.ASKED, 2, request="b"))
    first, second, _ = (await ops.store.list(keys.audit_of("r1"))).items
    assert json.loads(second.value)["previous"] == audit.hash_of(first.value)
