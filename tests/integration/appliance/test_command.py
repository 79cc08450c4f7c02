"""`cairn-appliance` as a command: what it prints, and how it ends on bad input."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cairn_agent.protocol.token import decode_token
from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.etcd_binary import find_etcd
from cairn_appliance.cluster.etcd_process import EtcdProcess
from cairn_appliance.domain.cluster import FORMAT
from cairn_appliance.store import keys
from cairn_appliance.store.port import Put

from tests.integration.appliance.running import RunningAppliance, register_request
from tests.ports import free_port

pytestmark = pytest.mark.etcd


def command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cairn_appliance.main", *arguments]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=60, env={**os.environ, **env}, check=False
    )


def init(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command("init", "--data-dir", str(directory), "--address", "127.0.0.1", *arguments)


def assert_told(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """It ended with this code, and its last lines are a cause and a remedy."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-2].startswith("error: ")
    assert lines[-1].startswith("  what to do: ")
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    directory = tmp_path_factory.mktemp("init") / "data"
    done = init(directory, "--vsubnet", "red", "--prefix", "10.7.0.0/24", "--json")
    assert done.returncode == 0, done.stderr
    return directory, json.loads(done.stdout)


def test_init_prints_all_that_is_needed_and_a_token_that_names_it(
    made: tuple[Path, dict[str, str]],
) -> None:
    _, told = made
    token = decode_token(told["token"])
    assert (token.appliances, token.pin) == (["127.0.0.1:8002"], told["ca_pin"])
    assert told["ops_url"] == "https://127.0.0.1:8443"
    assert len(told["admin_password"]) >= 20


def test_init_leaves_secrets_in_files_for_the_owner_alone(
    made: tuple[Path, dict[str, str]],
) -> None:
    directory, told = made
    modes = {path.name: path.stat().st_mode & 0o077 for path in directory.rglob("*-key*")}
    assert modes
    assert set(modes.values()) == {0}
    assert (directory / "kek").stat().st_mode & 0o077 == 0
    everything = b"".join(p.read_bytes() for p in directory.rglob("*") if p.is_file())
    assert told["admin_password"].encode() not in everything
    assert decode_token(told["token"]).secret.encode() not in everything


def test_a_second_init_is_refused_and_changes_nothing(made: tuple[Path, dict[str, str]]) -> None:
    directory, _ = made
    before = (directory / "pki" / "ca.pem").read_bytes()
    assert_told(init(directory), 5, "in use already")
    assert (directory / "pki" / "ca.pem").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--address", "not an address"], "not an address"),
        (["--address", "10.0.0.1:99999"], "99999"),
        (["--vsubnet", "red"], "--prefix"),
        (["--vsubnet", "a b", "--prefix", "10.7.0.0/24"], "a b"),
        (["--vsubnet", "red", "--prefix", "10.7.0.1/24"], "10.7.0.1/24"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_bad_arguments_of_init_leave_nothing_behind(
    tmp_path: Path, arguments: list[str], word: str
) -> None:
    assert_told(init(tmp_path / "data", *arguments), 2, word)
    assert list(tmp_path.iterdir()) == []


def test_run_without_init_says_so(tmp_path: Path) -> None:
    assert_told(command("run", "--data-dir", str(tmp_path)), 2, "cairn-appliance init")


def test_a_corrupt_state_file_is_named(made: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    shutil.copytree(made[0], tmp_path / "data")
    (tmp_path / "data" / "kek").write_bytes(b"short")
    assert_told(command("run", "--data-dir", str(tmp_path / "data")), 5, "kek")


def test_a_settings_file_with_a_mistake_is_named(
    made: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    shutil.copytree(made[0], tmp_path / "data")
    path = tmp_path / "data" / "settings.toml"
    path.write_text(path.read_text() + "colour = 'red'\n")
    assert_told(command("run", "--data-dir", str(tmp_path / "data")), 2, "colour")


def test_without_an_etcd_nothing_is_made(tmp_path: Path) -> None:
    done = command(
        "init", "--data-dir", str(tmp_path / "d"), "--address", "127.0.0.1",
        CAIRN_ETCD=str(tmp_path / "none"),
    )  # fmt: skip
    assert_told(done, 6, "etcd")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_named_before_etcd_is_started(made: tuple[Path, dict[str, str]]) -> None:
    directory, _ = made
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        _set_ports(directory, agent_port=port)
        log = (directory / "etcd.log").read_bytes()
        assert_told(command("run", "--data-dir", str(directory)), 6, str(port))
        assert (directory / "etcd.log").read_bytes() == log


def test_a_changed_address_is_in_the_next_token(made: tuple[Path, dict[str, str]]) -> None:
    directory, told = made
    _set_ports(directory, agent_port=free_port())
    path = directory / "settings.toml"
    path.write_text(path.read_text().replace('["127.0.0.1"]', '["127.0.0.1", "127.0.0.9:9"]'))
    line = [sys.executable, "-m", "cairn_appliance.main", "run", "--data-dir", str(directory)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = ""
        deadline = time.monotonic() + 30
        while "appliance serves" not in seen and time.monotonic() < deadline:
            seen += process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "certificate of the APIs renewed" in seen
    assert told["cluster_id"] in seen


@pytest.mark.timed
async def test_told_to_stop_while_etcd_hangs_it_ends_within_ten_seconds(tmp_path: Path) -> None:
    """With a stream open, requests waiting for the store, and a lease that can't be revoked."""
    appliance = await asyncio.to_thread(RunningAppliance, tmp_path)
    await asyncio.to_thread(appliance.start)
    assert appliance.process is not None
    member = await appliance.member("patient")
    etcd = appliance.etcd_pid()
    async with member.client() as stream, member.client() as caller:
        lines = stream.netmap_lines(0, 0, quiet_s=5.0)
        await anext(lines)
        await asyncio.sleep(6)  # by now presence has its lease
        os.kill(etcd, signal.SIGSTOP)
        calls = [asyncio.create_task(caller.register(register_request(member.node)))]
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        appliance.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(appliance.process.wait, 60)
        took_s = time.monotonic() - begun
        await asyncio.gather(*calls, return_exceptions=True)
        await lines.aclose()
    assert (status, took_s < 10) == (0, True), (status, took_s, appliance.log.read_text())
    assert not Path(f"/proc/{etcd}").exists()


async def test_a_store_of_a_newer_format_is_not_touched(tmp_path: Path) -> None:
    appliance = await asyncio.to_thread(RunningAppliance, tmp_path)
    await asyncio.to_thread(appliance.start)
    async with appliance.operator() as services:
        before = await services.store.list(keys.MAP)
        await services.store.commit([], [Put(keys.CLUSTER_FORMAT, b"%d" % (FORMAT + 1))])
    await asyncio.to_thread(appliance.end, signal.SIGTERM)
    done = await asyncio.to_thread(command, "run", "--data-dir", str(appliance.data_dir))
    assert_told(done, 4, f"this version reads up to {FORMAT}", "install the version")
    etcd = EtcdProcess(bootstrap.load(appliance.data_dir), find_etcd())
    await etcd.start()
    try:
        async with appliance.operator() as services:
            assert (await services.store.list(keys.MAP)).items == before.items
    finally:
        await etcd.stop()


def _set_ports(directory: Path, **ports: int) -> None:
    names = ("ops_port", "etcd_client_port", "etcd_peer_port", "etcd_metrics_port")
    wanted = {**{name: free_port() for name in names}, **ports}
    path = directory / "settings.toml"
    lines = [line for line in path.read_text().splitlines() if line.split(" ")[0] not in wanted]
    lines += [f"{name} = {port}" for name, port in wanted.items()]
    path.write_text("\n".join(lines) + "\n")
