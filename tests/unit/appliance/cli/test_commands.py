"""What the commands print and ask, and how they end."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import threading
import time
from dataclasses import replace

import httpx
import pytest
from cairn_agent.protocol.token import decode_token
from cairn_appliance.domain.errors import NodeFrozen
from cairn_appliance.domain.identity import SYSTEM, Facts
from cairn_appliance.services import registry
from cairn_appliance.services.registry import Report
from cairn_appliance.services.vsubnets import VSubnetChange, VSubnetOrder
from cairn_appliance.store import keys
from cairn_appliance.store.keys import MAP
from cairn_appliance.store.port import Put, Reset

from tests.unit.appliance.cli.conftest import Live, Shell

OFFICE = ["vsubnet", "create", "office", "--prefix", "10.7.0.0/24", "--prefix", "fd00:7::/64"]


def join(live: Live, name: str, *vsubnets: str, pending: bool = False) -> str:
    return live.do(live.operations.join(name, *vsubnets, site="cloud-a", pending=pending))


def answering(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(text))


def test_a_vsubnet_is_made_listed_changed_and_deleted(logged_in: Shell) -> None:
    made = logged_in.ok(*OFFICE)
    assert "vSubnet office" in made
    assert "cairn token create --vsubnet office" in made

    listed = logged_in.ok("vsubnet", "list").splitlines()
    assert listed[0].split() == ["NAME", "VNI", "PREFIXES", "MTU", "MEMBERS", "CREATED"]
    assert listed[1].startswith("office ")
    assert listed[2].strip() == "fd00:7::/64"

    changed = logged_in.ok("vsubnet", "set", "office", "--mtu", "1380", "--ageing", "10m")
    assert "1380 octets" in changed
    assert "learned addresses live 10 min" in changed

    shared = logged_in.ok(
        "vsubnet", "set", "office", "--shared-ip", "10.7.0.9", "--shared-ip", "fd00:7::9"
    )
    assert "any member may take 10.7.0.9" in shared and "fd00:7::9" in shared
    assert "any member may take" not in logged_in.ok("vsubnet", "set", "office", "--shared-ip", "")
    assert logged_in.ok("vsubnet", "delete", "office", "--yes") == (
        "The vSubnet office is deleted.\n"
    )
    assert "There is no vSubnet yet" in logged_in.ok("vsubnet", "list")


def test_every_read_has_json_that_is_the_answer_of_the_api(live: Live, logged_in: Shell) -> None:
    logged_in.ok(*OFFICE)
    node_id = join(live, "web-1", "office")
    token_id = json.loads(logged_in.ok("token", "list", "--json"))[0]["id"]

    for group in ("vsubnet", "node", "token", "member", "site"):
        listed = json.loads(logged_in.ok(group, "list", "--json"))
        assert len(listed) == 1, group
    for arguments in (
        ["vsubnet", "show", "office"],
        ["node", "show", "web-1"],
        ["token", "show", token_id],
        ["member", "show", "office", "web-1"],
        ["status"],
    ):
        assert isinstance(json.loads(logged_in.ok(*arguments, "--json")), dict)
    assert json.loads(logged_in.ok("node", "show", "web-1", "--json"))["id"] == node_id
    events = logged_in.ok("event", "list", "--json").splitlines()
    assert [json.loads(line)["kind"] for line in events][:2] == ["vsubnet_created", "token_created"]


def test_a_token_is_printed_whole_on_lines_of_its_own_at_any_width(
    live: Live, logged_in: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged_in.ok(*OFFICE)
    monkeypatch.setenv("COLUMNS", "40")

    lines = logged_in.ok("token", "create", "--vsubnet", "office", "--uses", "3").splitlines()

    strings = [line for line in lines if line.startswith("cairn1.")]
    assert len(strings) == 1
    assert decode_token(strings[0]).pin == live.fingerprint
    assert f"cairn-agent join {strings[0]}" in lines
    live.do(live.operations.enrol("web-1", strings[0]))
    assert "1 of 3" in logged_in.ok("token", "list")


def test_a_token_for_some_networks_says_so(logged_in: Shell) -> None:
    made = logged_in.ok("token", "create", "--from", "192.0.2.0/24", "--from", "2001:db8::/32")
    assert "192.0.2.0/24" in made
    assert "2001:db8::/32" in made


def test_a_token_for_some_machines_says_so(logged_in: Shell) -> None:
    made = logged_in.ok("token", "create", "--instance", "i-0abc", "--instance", "i-0abd")
    assert "only for" in made and "i-0abc" in made and "i-0abd" in made


def test_a_pending_node_is_approved_by_the_beginning_of_its_id(
    live: Live, logged_in: Shell
) -> None:
    logged_in.ok(*OFFICE)
    node_id = join(live, "web-1", "office", pending=True)

    assert "1 node waits for approval" in logged_in.ok("status")
    told = logged_in.ok("node", "approve", node_id[:8])

    assert told == (
        "The node web-1 is approved. It is now a member of office 10.7.0.2 fd00:7::2.\n"
    )


def test_a_copy_says_whose_it_is_and_becomes_a_new_node_or_the_node(
    live: Live, logged_in: Shell
) -> None:
    logged_in.ok(*OFFICE)
    original = join(live, "web-1", "office")
    live.do(live.operations.copy("scaled-out", original))
    live.do(live.operations.copy("the-real-one", original))
    listed = logged_in.ok("node", "list", "--state", "pending")
    assert "pending, copy of web-1" in " ".join(listed.split())
    assert "10.7.0.3" in logged_in.ok("node", "approve", "scaled-out")

    refused = logged_in("node", "claim", "web-1", "--yes")
    assert (refused.code, "is no copy of another" in refused.err) == (4, True)
    unattended = logged_in("node", "claim", "the-real-one")
    assert (unattended.code, "it waits as a copy" in unattended.err) == (2, True)
    told = logged_in.ok("node", "claim", "the-real-one", "--yes")
    assert told == "The machine the-real-one is the node web-1 now.\n"
    assert json.loads(logged_in.ok("node", "show", "web-1", "--json"))["id"] == original
    assert "No such node." in logged_in.ok("node", "list", "--state", "pending")
    assert "web-1 is another machine from now on" in logged_in.ok("event", "list")


def test_a_vsubnet_gets_a_new_secret(live: Live, logged_in: Shell) -> None:
    logged_in.ok(*OFFICE)
    told = logged_in.ok("vsubnet", "rotate", "office")
    assert "epoch 2; the old one is accepted for another 10 minutes" in " ".join(told.split())
    told = logged_in.ok("vsubnet", "rotate", "office", "--revoke-now", "--yes")
    assert "epoch 3; the old one is over" in " ".join(told.split())


def test_a_frozen_node_is_shown_so_and_let_in_again(
    live: Live, logged_in: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "COMES_AGAIN_S", 0.0)
    node_id = join(live, "web-1")

    async def fight() -> None:
        report = Report(1, Facts(), (), "web-1", "0.1.0", "0.1.0", {})
        register = live.operations.services.registry.register
        for generation in (1, 2, 3, *[0] * 5):
            with contextlib.suppress(NodeFrozen):
                await register(node_id, replace(report, generation=generation), "")

    live.do(fight())
    assert "approved, frozen" in " ".join(logged_in.ok("node", "list").split())
    assert logged_in.ok("node", "unfreeze", "web-1") == "The node web-1 may register again.\n"
    assert "frozen" not in logged_in.ok("node", "show", "web-1")


def test_a_name_of_two_nodes_lists_both(live: Live, logged_in: Shell) -> None:
    ids = [join(live, "web-1"), join(live, "web-1")]

    ended = logged_in("node", "show", "web-1")

    assert ended.code == 2
    assert "'web-1' fits 2 nodes" in ended.err
    assert all(node_id in ended.err for node_id in ids)
    assert logged_in.ok("node", "show", ids[0]).startswith("Node web-1")


def test_deleting_names_what_will_be_lost_and_asks(
    live: Live, logged_in: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged_in.ok(*OFFICE)
    node_id = join(live, "web-1", "office")

    unattended = logged_in("node", "delete", "web-1")
    answering(monkeypatch, "\n")
    refused = logged_in("node", "delete", "web-1")
    answering(monkeypatch, "y\n")
    confirmed = logged_in("node", "delete", "web-1")

    assert unattended.code == 2
    assert "add --yes" in unattended.err
    for ended in (unattended, refused, confirmed):
        assert f"Delete the node web-1 ({node_id}, at cloud-a)?" in ended.err
        assert "  - it is cut off from office 10.7.0.2 fd00:7::2" in ended.err
    assert (refused.code, "nothing was changed" in refused.err) == (4, True)
    assert confirmed.code == 0
    assert "No such node." in logged_in.ok("node", "list", "--state", "approved")


def test_a_member_is_attached_readdressed_and_detached(live: Live, logged_in: Shell) -> None:
    logged_in.ok(*OFFICE)
    join(live, "web-1")

    assert "10.7.0.2" in logged_in.ok("member", "create", "office", "web-1")
    assert "10.7.0.77" in logged_in.ok("member", "set", "office", "web-1", "--ip", "10.7.0.77")
    assert "10.7.0.77" in logged_in.ok("member", "list", "--vsubnet", "office")
    told = logged_in.ok("member", "delete", "office", "web-1", "--yes")

    assert told == "web-1 is no member of office any more.\n"
    assert "No such member." in logged_in.ok("member", "list", "--node", "web-1")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["vsubnet", "show", "nope"], 2, "there is no vSubnet 'nope'"),
        (["vsubnet", "create", "office"], 4, "there is a vSubnet 'office' already"),
        (["vsubnet", "create", "a b"], 2, "'a b' can't be the name of a vSubnet"),
        (["vsubnet", "create", "x", "--prefix", "10.7.0.1/24"], 2, "has host bits set"),
        (["vsubnet", "create", "x", "--mtu", "99"], 2, "an MTU of 99 octets can't be"),
        (["vsubnet", "create", "x", "--mtu", "big"], 2, "Invalid value for '--mtu'"),
        (["vsubnet", "create", "x", "--ageing", "soon"], 2, "'soon' is no length of time"),
        (["vsubnet", "create"], 2, "Missing argument 'NAME'"),
        (["vsubnet", "set", "office"], 2, "nothing to change is named"),
        (["vsubnet", "set", "nope", "--mtu", "1300"], 2, "there is no vSubnet 'nope'"),
        (["vsubnet", "delete", "nope", "--yes"], 2, "there is no vSubnet 'nope'"),
        (["token", "create", "--vsubnet", "nope"], 2, "there is no vSubnet 'nope'"),
        (["token", "create", "--uses", "0"], 2, "max_uses"),
        (["token", "create", "--life", "1y"], 2, "'1y' is no length of time"),
        (["token", "create", "--life", "60w"], 2, "life_s"),
        (["token", "create", "--from", "office"], 2, "'office' is no network"),
        (["token", "create", "--instance", "my vm"], 2, "'my vm' is no instance ID"),
        (["token", "create", "--label", "novalue"], 2, "'novalue' is no label"),
        (["token", "show", "cairn1.abc"], 2, "this is the string of a token, not its ID"),
        (["token", "delete", "nope", "--yes"], 2, "there is no token 'nope'"),
        (["node", "show", "nope"], 2, "there is no node 'nope'"),
        (["node", "show", "deadbeef"], 2, "there is no node 'deadbeef'"),
        (["node", "approve", "nope"], 2, "there is no node 'nope'"),
        (["node", "list", "--state", "asleep"], 2, "'asleep' is not one of"),
        (["member", "create", "nope", "nope"], 2, "there is no node 'nope'"),
        (["member", "list", "--vsubnet", "nope"], 2, "there is no vSubnet 'nope'"),
        (["event", "list", "--since", "noon"], 2, "'noon' is no length of time"),
        (["event", "list", "--limit", "0"], 2, "Invalid value for '--limit'"),
        (["frobnicate"], 2, "No such command 'frobnicate'"),
        (["node", "frobnicate"], 2, "No such command 'frobnicate'"),
        (["node", "list", "--frob"], 2, "No such option: --frob"),
    ],
)
def test_bad_input_is_a_sentence_a_remedy_and_an_exit_code(
    shared: Shell, arguments: list[str], code: int, sentence: str
) -> None:
    ended = shared(*arguments)

    assert (ended.code, ended.out) == (code, ""), ended.err
    assert sentence in ended.err
    assert ended.err.startswith("error: ")
    assert "\n  what to do: " in ended.err
    assert "Traceback" not in ended.err


@pytest.fixture
def shared(logged_in: Shell) -> Shell:
    """Return the command at an appliance with the vSubnet `office`."""
    logged_in.ok("vsubnet", "create", "office")
    return logged_in


def test_a_change_of_someone_else_meanwhile_is_not_undone(
    live: Live, logged_in: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged_in.ok(*OFFICE)
    vsubnets = live.operations.services.vsubnets
    send = httpx.Client.request

    def interfering(client: httpx.Client, method: str, url: str, **more: object) -> httpx.Response:
        if method == "PATCH":
            live.do(vsubnets.change("office", VSubnetChange(mtu=1290), SYSTEM))
        return send(client, method, url, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx.Client, "request", interfering)
    ended = logged_in("vsubnet", "set", "office", "--mtu", "1380")
    monkeypatch.undo()

    assert ended.code == 4
    assert "changed" in ended.err
    assert live.do(vsubnets.get("office")).value.mtu == 1290


def test_a_shell_completes_names(
    live: Live,
    logged_in: Shell,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logged_in.ok("vsubnet", "create", "office")
    logged_in.ok("vsubnet", "create", "other")
    monkeypatch.setenv("_CAIRN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "cairn vsubnet show of")
    monkeypatch.setenv("COMP_CWORD", "3")

    with pytest.raises(SystemExit):
        logged_in("vsubnet", "show")
    offered = capsys.readouterr().out.split()
    live.stop()
    with pytest.raises(SystemExit):
        logged_in("vsubnet", "show")

    assert offered == ["office"]
    assert capsys.readouterr().out.split() == []


def test_names_can_not_steer_the_terminal(live: Live, logged_in: Shell) -> None:
    hostile = "evil\x1b[2J\u202eexe.[red]x[/red]"
    reply = logged_in.ok("token", "create", "--label", f"note={hostile}")
    shown = logged_in.ok("token", "show", reply.split()[1])

    for text in (reply, shown, logged_in.ok("token", "list", "--json")):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "note=evil\\x1b[2J\\u202eexe.[red]x[/red]" in shown


def test_without_a_store_the_command_says_so_in_bounded_time(live: Live, logged_in: Shell) -> None:
    logged_in.ok("status")
    live.operations.store.fail()
    began = time.monotonic()

    listed = logged_in("vsubnet", "list")
    status = logged_in("status")

    assert time.monotonic() - began < 20
    assert listed.code == 3
    assert "error: the store gives no answer in time" in listed.err
    assert status.code == 3
    assert "changes wait" in status.out


def test_an_appliance_that_is_gone_is_said_at_once(live: Live, logged_in: Shell) -> None:
    live.stop()

    ended = logged_in("status")

    assert ended.code == 3
    assert "can't be reached: Connection refused" in ended.err


def test_following_shows_what_happens_and_goes_on_after_a_loss(
    live: Live, logged_in: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is cut once: nothing that happens meanwhile is left out or shown twice."""
    logged_in.ok("vsubnet", "create", "before")
    streams = 0
    stream = httpx.Client.stream

    def counted(client: httpx.Client, *arguments: object, **more: object) -> object:
        nonlocal streams
        streams += 1
        if streams == 2:
            raise httpx.ReadError("cut")
        if streams == 4:
            raise KeyboardInterrupt
        return stream(client, *arguments, **more)  # type: ignore[arg-type]

    def act() -> None:
        names = iter(["one", "two", "three"])
        for wanted in (1, 3):
            deadline = time.monotonic() + 20
            while streams < wanted and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.3)
            live.do(_create(live, next(names)))
            live.do(_create(live, next(names, "four")))
            time.sleep(0.3)
            live.cut()

    monkeypatch.setattr(httpx.Client, "stream", counted)
    acting = threading.Thread(target=act)
    acting.start()
    ended = logged_in("event", "list", "--follow", "--kind", "vsubnet_created")
    acting.join(20)

    assert ended.code == 130
    assert [line.split("vSubnet ")[1].split()[0] for line in ended.out.splitlines()] == [
        "before",
        "one",
        "two",
        "three",
        "four",
    ]
    assert "trying again" in ended.err


async def _create(live: Live, name: str) -> None:
    await live.operations.services.vsubnets.create(VSubnetOrder(name), SYSTEM)


def test_the_ca_is_replaced_step_by_step(live: Live, logged_in: Shell) -> None:
    have_format(live, 2)
    logged_in.ok("token", "create")
    assert "nothing is under way" in logged_in.ok("ca", "status")
    assert logged_in("ca", "rotate").code == 2, "nobody is asked"
    told = logged_in.ok("ca", "rotate", "--yes")
    assert "announced" in told
    assert "0 of 0 are up to it" in told
    again = logged_in("ca", "rotate", "--yes")
    assert (again.code, "being replaced already" in again.err) == (4, True)
    retired = logged_in("ca", "retire", "--yes")
    assert (retired.code, "no former CA" in retired.err) == (4, True)
    follow(live)
    assert "issuing" in logged_in.ok("ca", "issue", "--yes")
    follow(live)
    told = logged_in.ok("ca", "status")
    assert live.fingerprint in told
    assert "1 enrolment token made under the former CA" in told
    assert "steady" in logged_in.ok("ca", "retire", "--yes")
    follow(live)
    trust = json.loads(logged_in.ok("ca", "status", "--json"))
    assert [each["fingerprint"] for each in trust["ca"]["retired"]] == [live.fingerprint]
    assert len(trust["ca"]["old_tokens"]) == 1
    assert "void" in logged_in.ok("ca", "status")
    assert "the former CA" in logged_in.ok("event", "list")


def test_the_map_key_is_replaced_step_by_step(live: Live, logged_in: Shell) -> None:
    logged_in.ok(*OFFICE)
    join(live, "web-1", "office")
    have_format(live, 1)
    waits = logged_in("map-key", "rotate", "--yes")
    assert (waits.code, "until the upgrade is finished" in waits.err) == (4, True)
    have_format(live, 2)
    assert "nothing is under way" in logged_in.ok("map-key", "status")
    logged_in.ok("map-key", "rotate", "--yes")
    follow(live)
    told = logged_in.ok("map-key", "status")
    assert "0 of 1 are up to it" in told
    assert "node web-1: it is away" in told
    before = json.loads(logged_in.ok("map-key", "status", "--json"))["map_key"]
    assert before["next"]
    after = json.loads(logged_in.ok("map-key", "use", "--yes", "--json"))["map_key"]
    assert (after["public_key"], after["next"]) == (before["next"], None)


def have_format(live: Live, number: int) -> None:
    """Let the cluster have this format; from 2 on keys can be replaced."""
    put = Put(keys.CLUSTER_FORMAT, str(number).encode())
    live.do(live.operations.store.commit([], [put]))


def follow(live: Live) -> None:
    """Let the appliance's netmaps take up what is in the store."""

    async def take() -> None:
        listing = await live.operations.store.list(MAP)
        live.operations.services.netmaps.take([Reset(listing.revision, listing.items)])

    live.do(take())
