"""The menu as a dialogue: lines are fed, and what it shows and asks root for is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image import menu, request
from cairn_appliance.image.dialogue import NotAnswered, WentBack
from cairn_appliance.image.interfaces import Interface
from cairn_appliance.image.menu_parts import Machine
from cairn_appliance.image.password_reset import Order
from cairn_appliance.image.request import NotDone, Request
from cairn_appliance.image.screen import Shown
from cairn_appliance.image.seed import Network, System

from tests.unit.appliance.image.test_seed import HASH, JOIN

PASSWORD = "a password for tests, long enough"
BACK, SILENT = "\x03", "\x00"  # of a fed line: Ctrl-C; nobody answers
INTERFACE = Interface("ens3", "52:54:00:12:34:56", True, ("192.0.2.10/24",))


@dataclass
class Typed:
    """A terminal at which lines were typed beforehand; it hangs up where they end."""

    lines: list[str]
    shown: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.shown.append(text)

    def ask(self, prompt: str, *, hidden: bool = False, within_s: float = 0.0) -> str:
        self.shown.append(prompt)
        line = self.lines.pop(0) if self.lines else BACK
        if line == BACK:
            raise WentBack("back")
        if line == SILENT:
            raise NotAnswered("nobody")
        if hidden:
            self.hidden.append(line)
        else:
            self.shown.append(line)
        return line

    def pause(self, seconds: float) -> None:
        pass

    @property
    def text(self) -> str:
        return "\n".join(self.shown)


@dataclass
class Asked:
    """Root, which does all or refuses; and the machine as it then looks."""

    is_set_up: bool = False
    system: System = field(default_factory=System)
    wired: Sequence[Interface] = (INTERFACE,)
    hosts: Sequence[str] = ()
    requests: list[Request] = field(default_factory=list)
    looks: list[Shown] = field(default_factory=list)
    refusal: CairnError | None = None
    orders: list[Order] = field(default_factory=list)

    def ask_root(self, asked: Request) -> str:
        self.requests.append(asked)
        if self.refusal:
            raise self.refusal
        return "said by root"

    def reset(self, order: Order) -> str:
        self.orders.append(order)
        return "admin has a new password"

    def look(self) -> Shown:
        return self.looks.pop(0) if self.looks else seen(state="ready", fingerprint="ab" * 32)

    def machine(self) -> Machine:
        return Machine(
            ask_root=self.ask_root,
            look=self.look,
            is_set_up=lambda: self.is_set_up,
            kept=lambda: self.system,
            wired=lambda: self.wired,
            cluster_hosts=lambda: self.hosts,
            hash_password=lambda _: HASH,
            reset_password=self.reset,
            has_time=lambda: False,
        )


def seen(**changes: str) -> Shown:
    fixed = {"hostname": "cairn-1", "version": "1", "slot": "a", "fingerprint": ""}
    texts = fixed | {"state": "is being set up", "problem": "", "remedy": ""} | changes
    return Shown(addresses=("192.0.2.10",), **texts)  # type: ignore[arg-type]


def run(machine: Asked, *lines: str) -> Typed:
    talk = Typed(list(lines))
    menu.run(talk, machine.machine())
    assert not talk.lines, f"not asked for: {talk.lines}"
    return talk


STATIC = ("192.0.2.20/24 2001:db8::20/64", "192.0.2.1", "192.0.2.53", "-")
STATIC_NETWORK = Network(
    addresses=["192.0.2.20/24", "2001:db8::20/64"], gateways=["192.0.2.1"], dns=["192.0.2.53"]
)


def test_a_network_is_tried_and_kept() -> None:
    root = Asked()
    talk = run(root, "1", "2", *STATIC, "yes", "keep")
    assert root.requests == [request.TryNetwork(STATIC_NETWORK), request.KeepNetwork()]
    assert "It is kept" in talk.text


@pytest.mark.parametrize("answer", [SILENT, BACK, "", "yes"])
def test_a_network_that_nobody_keeps_goes_back(answer: str) -> None:
    root = Asked()
    talk = run(root, "1", "2", *STATIC, "yes", answer)
    assert root.requests == [request.TryNetwork(STATIC_NETWORK), request.RevertNetwork()]
    assert "as it was before" in talk.text and "It is kept" not in talk.text


def test_a_network_that_cannot_work_is_not_tried_and_the_menu_is_there_again() -> None:
    root = Asked()
    talk = run(root, "1", "2", "192.0.2.20", "-", "-", "-", "1", "1", "-", "no")
    assert root.requests == []
    assert "no address with a prefix length" in talk.text and "192.0.2.10/24" in talk.text


def test_one_of_several_interfaces_is_named_by_its_mac() -> None:
    other = Interface("ens4", "52:54:00:12:34:57", False, ())
    root = Asked(wired=(INTERFACE, other))
    talk = run(root, "1", "1", "3", "-", "yes", "keep")
    assert root.requests[0] == request.TryNetwork(Network(mac="52:54:00:12:34:57"))
    assert "no link" in talk.text


def test_who_knows_the_old_address_is_told_of_before_it_changes() -> None:
    root = Asked(is_set_up=True, hosts=("192.0.2.10", "cairn.example"))
    talk = run(root, "1", "2", *STATIC, "no")
    assert "know this appliance as 192.0.2.10" in talk.text
    assert "cairn.example" not in talk.text and root.requests == []


def test_a_cluster_is_created_the_way_of_a_seed() -> None:
    root = Asked(looks=[seen(), seen(state="starts, or has no quorum")])
    talk = run(root, "2", "cairn-1", "", PASSWORD, PASSWORD, "yes")
    (asked,) = root.requests
    assert isinstance(asked, request.SetUp) and asked.hostname == "cairn-1"
    assert asked.cluster.action == "create" and asked.cluster.admin_password_hash == HASH
    assert asked.cluster.addresses == ["192.0.2.10"]
    assert "starts, or has no quorum" in talk.text
    assert "https://192.0.2.10/" in talk.text and "ab" * 32 in talk.text
    assert talk.hidden == [PASSWORD, PASSWORD] and PASSWORD not in talk.text


def test_passwords_that_are_short_or_not_the_same_are_asked_for_again() -> None:
    root = Asked()
    talk = run(
        root, "2", "", "", "short", "2", "", "", PASSWORD, "x" * 20, PASSWORD, PASSWORD, "no"
    )
    assert "too short" in talk.text and "not the same" in talk.text
    assert root.requests == []


def test_a_cluster_is_joined_and_a_string_with_a_mistake_is_not() -> None:
    root = Asked()
    talk = run(root, "3", "cairn-2", "", JOIN[:-4], "3", "cairn-2", "", JOIN, "yes")
    assert "damaged or cut short" in talk.text and JOIN not in talk.text
    (asked,) = root.requests
    assert isinstance(asked, request.SetUp) and asked.cluster.join_string == JOIN


def test_what_is_in_the_way_is_told_and_it_can_be_done_again() -> None:
    root = Asked(looks=[seen(problem="the string has expired", remedy="make a new one")])
    talk = run(root, "3", "", "", JOIN, "yes", "3", BACK)
    assert "the string has expired" in talk.text and "make a new one" in talk.text


def test_without_an_address_no_cluster_is_begun() -> None:
    talk = run(Asked(wired=()), "2", "")
    assert "set up its network first" in talk.text


def test_a_name_that_is_none_is_refused() -> None:
    assert "is none" in run(Asked(), "2", "No Name!").text


@pytest.mark.parametrize("choice", ["8", "9", "99", "-1", "two", "٣", "1 "])
def test_only_what_is_in_the_list_can_be_chosen(choice: str) -> None:
    root = Asked()
    assert "There is no" in run(root, choice).text and root.requests == []


def test_an_appliance_is_not_set_up_twice() -> None:
    text = run(Asked(is_set_up=True)).text
    assert "create a cluster" not in text and "password of an admin" in text
    assert "password of an admin" not in run(Asked()).text


def test_the_password_is_reset_by_the_appliance_and_shown_nowhere() -> None:
    root = Asked(is_set_up=True)
    talk = run(root, "3", "bob", "yes", PASSWORD, PASSWORD)
    assert root.orders == [Order("bob", PASSWORD, is_code_lost=True)]
    assert PASSWORD not in talk.text and PASSWORD not in repr(root.orders)
    assert "admin has a new password" in talk.text and root.requests == []


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (("1", "ntp.example 192.0.2.9"), request.SetTimeServers(["ntp.example", "192.0.2.9"])),
        (("2", "2026-12-31 23:59"), request.SetClock(1_798_761_540)),
    ],
)
def test_the_time(lines: tuple[str, ...], wanted: Request) -> None:
    root = Asked()
    run(root, "4", *lines)
    assert root.requests == [wanted]


def test_a_time_that_is_none_is_refused() -> None:
    root = Asked()
    assert "is no time" in run(root, "4", "2", "tomorrow").text and root.requests == []


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (("5", "yes"), request.WriteBundle()),
        (("6", "1", "restart"), request.Restart()),
        (("6", "2", "off"), request.PowerOff()),
        (("7", "cairn-1"), request.FactoryReset("cairn-1")),
    ],
)
def test_what_ends_or_removes_something_wants_a_word_typed(
    lines: tuple[str, ...], wanted: Request
) -> None:
    done, not_done = Asked(), Asked()
    run(done, *lines)
    run(not_done, *lines[:-1], "y")
    assert (done.requests, not_done.requests) == ([wanted], [])


def test_a_member_is_told_to_leave_before_its_reset() -> None:
    assert "cairn cluster leave" in run(Asked(is_set_up=True), "7", BACK).text


def test_what_root_refuses_is_told_and_the_menu_goes_on() -> None:
    root = Asked(refusal=NotDone("there is no medium", "attach one"))
    talk = run(root, "5", "yes", "0")
    assert "there is no medium" in talk.text and "attach one" in talk.text


def test_who_goes_away_leaves_the_screen() -> None:
    root = Asked()
    talk = run(root, "7", SILENT)
    assert root.requests == [] and talk.text.count("Cairn appliance") == 1
