"""Segments' values, and that they say what agents read."""

from __future__ import annotations

from dataclasses import asdict

import msgspec
import pytest
from cairn_agent.protocol import gateway as wire
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.segment import (
    Guards,
    Preference,
    checked_guards,
    checked_port,
    is_station,
)


def test_guards_are_by_default_what_agents_take_for_the_default() -> None:
    ours = {**asdict(Guards()), "silent_hosts": list(Guards().silent_hosts)}
    assert ours == msgspec.to_builtins(wire.Guards())


def test_preferences_are_those_that_agents_know() -> None:
    assert set(Preference) == set(wire.Preference.__args__)


def test_guards_are_kept_in_one_form() -> None:
    guards = checked_guards(Guards(silent_hosts=("02-00-00-00-00-0A", "02:00:00:00:00:0a")))
    assert guards.silent_hosts == ("02:00:00:00:00:0a",)


@pytest.mark.parametrize("port", ["eth1", "enp3s0f0", "bond0", "eno1.20", "lan-port_2"])
def test_ports_as_linux_names_them(port: str) -> None:
    assert checked_port(port) == port


@pytest.mark.parametrize("port", ["", ".", "..", "a/b", "eth 1", "eth1\n", "x" * 16, "ĕth1"])
def test_what_no_interface_is_called_is_refused(port: str) -> None:
    with pytest.raises(Invalid):
        checked_port(port)


@pytest.mark.parametrize(
    ("mac", "is_one"),
    [
        ("02:00:00:00:00:01", True),
        ("00:1b:44:11:3a:b7", True),
        ("00:00:00:00:00:00", False),
        ("01:00:5e:00:00:01", False),
        ("ff:ff:ff:ff:ff:ff", False),
        ("02:00:00:00:00:0A", False),
        ("02:00:00:00:00", False),
    ],
)
def test_a_machine_s_mac_is_of_one_machine(mac: str, is_one: bool) -> None:
    assert is_station(mac) is is_one
