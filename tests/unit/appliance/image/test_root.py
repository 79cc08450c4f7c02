"""What root does of what it is asked: everything is checked again, and nothing else is done."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cairn_appliance import settings as settings_file
from cairn_appliance.domain.errors import CairnError, Clash, Refused
from cairn_appliance.image import (
    interfaces,
    machine,
    places,
    readdressing,
    request,
    root,
    support,
    trial,
)
from cairn_appliance.image import wipe as wiping
from cairn_appliance.image.request import Answer, NotDone, SetUp, TryNetwork
from cairn_appliance.image.seed import Cluster, Network, SeedError, System
from cairn_appliance.image.support import NoBundle
from cairn_appliance.settings import Settings

from tests.unit.appliance.image.test_first_boot import here
from tests.unit.appliance.image.test_seed import HASH, JOIN

__all__ = ["here"]

NEW = Network(addresses=["192.0.2.20/24"], gateways=["192.0.2.1"])
CREATE = Cluster("create", ["192.0.2.20"], admin_password_hash=HASH)


@pytest.fixture
def ran(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What programs would have been run: none is."""
    commands: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(" ".join(command))
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(places, "TRIAL", here / "trial.json")
    monkeypatch.setattr(places, "SYNCHRONISED", here / "synchronised")
    monkeypatch.setattr(places, "RESET", here / "var/cairn-reset")
    return commands


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the machine's interfaces have."""
    there = ["192.0.2.10", "2001:db8::10"]
    monkeypatch.setattr(interfaces, "hosts", there.copy)
    return there


def kept() -> Network:
    return machine.kept_system().network


def test_a_tried_network_is_on_no_disk_until_it_is_kept(ran: list[str]) -> None:
    root.do(TryNetwork(NEW))
    assert kept() == Network()
    root.do(request.KeepNetwork())
    assert kept() == NEW
    assert ran[-1] == "systemctl stop cairn-network-revert.timer"


def test_the_timer_runs_before_anything_is_changed(
    ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: System) -> None:
        assert ran == ["systemctl restart cairn-network-revert.timer"]
        raise CairnError("networkd is gone")

    monkeypatch.setattr(trial, "use", fails)
    with pytest.raises(CairnError):
        root.do(TryNetwork(NEW))
    assert places.TRIAL.exists()  # for the timer to take back


def test_what_was_taken_back_cannot_be_kept(ran: list[str]) -> None:
    root.do(TryNetwork(NEW))
    trial.revert()
    with pytest.raises(trial.TooLate):
        root.do(request.KeepNetwork())
    assert kept() == Network()
    before = list(ran)
    trial.revert()
    assert ran == before  # nothing to take back: nothing is touched


def test_two_terminals_do_not_try_at_once(ran: list[str]) -> None:
    root.do(TryNetwork(NEW))
    with pytest.raises(Clash):
        root.do(TryNetwork(Network()))
    root.do(request.KeepNetwork())
    assert kept() == NEW


def test_the_appliance_follows_its_machine_to_another_address(
    ran: list[str], addresses: list[str]
) -> None:
    known = Settings(
        addresses=["192.0.2.10", "cairn.example", "203.0.113.1", "[2001:db8::10]:9002"],
        ops_port=443,
        cluster_address="192.0.2.10",
    )
    path = places.DATA_DIR / "settings.toml"
    path.write_text(settings_file.to_toml(known))
    root.do(TryNetwork(NEW))
    addresses[:] = ["192.0.2.20", "2001:db8::20"]
    root.do(request.KeepNetwork())
    now = settings_file.read(places.DATA_DIR)
    assert now.addresses == ["192.0.2.20", "cairn.example", "203.0.113.1", "[2001:db8::20]:9002"]
    assert now.cluster_address == "192.0.2.20" and now.ops_port == 443
    assert ran[-1] == "systemctl --no-block try-restart cairn-appliance.service"


@pytest.mark.parametrize(
    "after", [["192.0.2.10", "2001:db8::10"], ["2001:db8::10"], ["192.0.2.10", "192.0.2.9"]]
)
def test_an_address_without_a_successor_stays(after: list[str]) -> None:
    known = Settings(addresses=["192.0.2.10"], cluster_address="192.0.2.10")
    before = ["192.0.2.10", "2001:db8::10"]
    assert readdressing.readdressed(known, before, after) == known


def test_the_unit_gives_as_long_as_the_menu_says() -> None:
    tree = Path(__file__).parents[4] / "images/appliance/tree/usr/lib/systemd/system"
    timer = (tree / "cairn-network-revert.timer").read_text()
    assert f"OnActiveSec={trial.KEEP_WITHIN_S:.0f}s\n" in timer


@pytest.mark.parametrize(
    "asked",
    [
        TryNetwork(Network(addresses=["192.0.2.20"])),
        SetUp("no name!", CREATE),
        SetUp("cairn-1", Cluster("create", ["192.0.2.20"])),
        SetUp("cairn-1", Cluster("join", ["192.0.2.20"], join_string=JOIN[:-3])),
        request.SetTimeServers(["a b"]),
        request.SetClock(0),
        request.FactoryReset("another-name"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_root_too(
    ran: list[str], here: Path, asked: request.Request
) -> None:
    with pytest.raises((SeedError, Refused)):
        root.do(asked)
    assert ran == [] and not places.KEPT.exists() and not places.CLUSTER.exists()


def test_a_set_up_is_handed_to_the_unit_of_a_seed(ran: list[str]) -> None:
    places.PROBLEM.write_text("old\nold\n")
    trial.keep_system(System(network=NEW))
    root.do(SetUp("cairn-9", CREATE))
    assert machine.kept_system() == System("cairn-9", NEW)
    assert msgspec.json.decode(places.CLUSTER.read_bytes(), type=Cluster) == CREATE
    assert places.CLUSTER.stat().st_mode & 0o777 == 0o600
    assert not places.PROBLEM.exists()
    assert ran[-1] == "systemctl --no-block start cairn-first-boot.service"


def test_an_appliance_is_not_set_up_again(ran: list[str]) -> None:
    (places.DATA_DIR / "settings.toml").write_text("")
    with pytest.raises(Refused):
        root.do(SetUp("cairn-9", CREATE))
    assert ran == []


def test_a_clock_that_a_server_sets_is_left_alone(
    ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[float] = []
    monkeypatch.setattr(time, "clock_settime", lambda _, at: set_to.append(at))
    monkeypatch.setattr(root, "_RTC", places.RUN_DIR / "no-rtc")
    root.do(request.SetClock(1_800_000_000))
    places.SYNCHRONISED.touch()
    with pytest.raises(Refused):
        root.do(request.SetClock(1_800_000_000))
    assert set_to == [1_800_000_000]


def test_a_reset_leaves_nothing_but_the_file_system(tmp_path: Path) -> None:
    var = tmp_path / "var"
    for name in ("lib/cairn/appliance", "log/journal", "lost+found"):
        (var / name).mkdir(parents=True)
    (var / "lib/cairn/appliance/kek").write_text("secret")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "stays").touch()
    (var / "run").symlink_to(outside)
    mark = var / "cairn-reset"
    mark.touch()
    wiping.empty(mark)
    assert [path.name for path in var.iterdir()] == ["lost+found"]
    assert (outside / "stays").exists()


def test_one_request_is_answered_over_a_socket(ran: list[str], here: Path) -> None:
    assert talked(here, lambda place: request.ask_root(TryNetwork(NEW), place)) == ""
    with pytest.raises(NotDone) as refused:
        talked(here, lambda place: request.ask_root(TryNetwork(Network(dns=["x"])), place))
    assert "is no IP address" in refused.value.cause


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b'{"do":"run","command":"reboot"}\n',
        b'{"do":"restart","more":1}\n',
        b"\xff\xfe\n",
        b"x" * (request.MOST_OCTETS + 1),
    ],
)
def test_what_is_no_request_is_refused(ran: list[str], here: Path, line: bytes) -> None:
    def send(place: Path) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(place))
            connection.sendall(line)
            return msgspec.json.decode(request.read_line(connection), type=Answer).cause

    assert "is no request" in talked(here, send)
    assert ran == []


def test_an_absent_root_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotDone):
        request.ask_root(request.Restart(), tmp_path / "nobody")


def talked(here: Path, client: Callable[[Path], str]) -> str:
    """Let root answer one who connects."""
    place = here / "request.sock"
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()

        def answer() -> None:
            with listening.accept()[0] as connection:
                root.answer_one(connection)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            return client(place)
        finally:
            thread.join(timeout=10)


def test_no_bundle_without_its_medium(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_BY_LABEL", here)
    with pytest.raises(NoBundle) as refused:
        root.do(request.WriteBundle())
    assert "CAIRN-OUT" in refused.value.remedy


@pytest.mark.parametrize(
    "secret",
    [
        HASH,
        JOIN,
        "cairn1.eyJhYmNkZWZnaGlqa2xtbm8",
        "ct1_abcdefghijklmnopqrstuv",
        "cairn-recovery-abcd2-efgh3-ijkl4",
        "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\nabc\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\ncut short",
        'password = "hidden-here"',
        '{"client_secret": "hidden-here"}',
    ],
    ids=lambda secret: secret[:8],  # the hash is another one each time
)
def test_what_looks_like_a_secret_is_left_out(secret: str) -> None:
    text = f"Nov 27 cairn[1]: before\n{secret}\n"
    left = support.without_secrets(text.encode()).decode()
    assert "before" in left and "[left out]" in left
    for part in secret.split('"')[-2:-1] or [secret]:
        assert part not in left


def test_a_journal_without_secrets_stays_as_it_is() -> None:
    text = b"a node joined cluster=abc fingerprint=" + b"ab" * 32 + b" node=cairn1 192.0.2.1\n"
    assert support.without_secrets(text) == text
