"""The settings file: what people write into it comes back, or is told with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from cairn_appliance import settings
from cairn_appliance.settings import Settings, SettingsError
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.sampled_from(["192.0.2.1", "[2001:db8::1]:9", "a.example:1"]), min_size=1))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, hosts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("settings")
    written = Settings(addresses=hosts, agent_port=9002, heartbeat_s=0.5)
    (path / "settings.toml").write_text(settings.to_toml(written))
    assert settings.read(path) == written


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 8002),
        ("192.0.2.1:9", "192.0.2.1", 9),
        ("2001:db8::1", "2001:db8::1", 8002),
        ("[2001:db8::1]", "2001:db8::1", 8002),
        ("[2001:db8::1]:9", "2001:db8::1", 9),
        ("appliance-1.example", "appliance-1.example", 8002),
        ("appliance:65535", "appliance", 65535),
    ],
)
def test_an_address_may_have_a_port(text: str, host: str, port: int) -> None:
    assert settings.split_address(text, 8002) == (host, port)
    assert settings.split_address(settings.join_address(host, port), 1) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":8002", "a:0", "a:65536", "a:b", "[a]:1", "[192.0.2.1]:1", "256.1.1.1", "1.2.3",
     "2001:db8::1:99999", "-a", "a..b", "a b", "a/b", "https://a", "[2001:db8::1", "a:1:2"],
)  # fmt: skip
def test_what_is_no_address_is_told_with_the_remedy(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.split_address(text, 8002)
    assert "HOST:PORT" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "addresses"),
        ("addresses = []", "no address"),
        ('addresses = ["a b"]', "not an address"),
        ('addresses = ["a"]\nagent_prot = 1', "agent_prot"),
        ('addresses = ["a"]\nagent_port = "x"', "agent_port"),
        ('addresses = ["a"]\nops_port = 0', "ops_port"),
        ('addresses = ["a"]\nops_port = 8002', "same"),
        ('addresses = ["a"]\nheartbeat_s = 0', "heartbeat_s"),
        ("addresses = ", "settings.toml"),
        ("\x00", "settings.toml"),
    ],
)
def test_settings_that_cannot_work_are_told(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(SettingsError, match=reason) as caught:
        settings.read(tmp_path)
    assert caught.value.remedy


def test_a_directory_without_settings_says_what_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.read(tmp_path)
    assert "init" in caught.value.remedy
