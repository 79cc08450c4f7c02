"""What strangers may fetch of an appliance: the agent's packages, and nothing else of its disk."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cairn_appliance.api.agent_v1 import packages as module
from cairn_appliance.api.agent_v1.app import create_app
from cairn_appliance.api.agent_v1.packages import DownloadLimit, Packages
from cairn_appliance.domain.errors import TooMany
from cairn_appliance.pki.authority import utc_now
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import AUTHORITY, Replica

CONTENT = bytes(range(256)) * 1024  # several pieces
NODE = SimulatedNode("n")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A directory of packages with one package, and secrets beside and in it."""
    shelf = tmp_path / "packages"
    shelf.mkdir()
    (shelf / "cairn-agent_1-1_amd64.deb").write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    (shelf / "SHA256SUMS").write_text(
        f"{digest}  cairn-agent_1-1_amd64.deb\n{digest}  ../secret\nno line of the list\n"
    )
    (shelf / "SHA256SUMS.sig").write_bytes(b"signature")
    (shelf / "install.sh").write_text("BASES='@BASES@'\nPIN='@PIN@'\n")
    (shelf / "unlisted").write_text("canary")
    (tmp_path / "secret").write_text("canary")
    return shelf


@pytest.fixture
async def api(shelf: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a certificate."""
    packages = Packages(shelf, ["192.0.2.1:8002", "[2001:db8::1]:8002"], _certificate)
    app = create_app(Replica().services, packages=packages)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="https://appliance"
    ) as client:
        yield client


def _certificate() -> bytes:
    request = NODE.certificate_request().encode()
    return AUTHORITY.issue_agent(request, NODE.id, utc_now())


async def test_a_package_arrives_whole_with_its_length(api: httpx.AsyncClient) -> None:
    """And the index has its digest."""
    answer = await api.get("/packages/cairn-agent_1-1_amd64.deb")
    index = (await api.get("/packages/")).json()["sha256"]
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert index == {"cairn-agent_1-1_amd64.deb": hashlib.sha256(CONTENT).hexdigest()}
    assert (await api.get("/packages/SHA256SUMS.sig")).content == b"signature"


@pytest.mark.parametrize(
    "name",
    [
        "unlisted",
        "../secret",
        "..%2Fsecret",
        "%2e%2e%2fsecret",
        "install.sh",
        ".",
        "a/b",
        "x" * 5000,
    ],
)
async def test_what_is_not_listed_is_not_there(api: httpx.AsyncClient, name: str) -> None:
    """A name is one of the list, never a path."""
    answer = await api.get(f"/packages/{name}")
    assert answer.status_code == 404
    assert "canary" not in answer.text


async def test_the_script_knows_the_appliance_and_the_key_that_tls_shows(
    api: httpx.AsyncClient,
) -> None:
    """curl's and wget's pin is the hash of the public key, not of the certificate."""
    text = (await api.get("/install.sh")).text
    assert "BASES='https://192.0.2.1:8002 https://[2001:db8::1]:8002'" in text
    key = x509.load_pem_x509_certificate(_certificate()).public_key()
    octets = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(octets).digest()).decode()
    assert f"PIN='sha256//{pin}'" in text


async def test_without_packages_there_is_no_command_and_the_answer_says_what_to_do(
    tmp_path: Path,
) -> None:
    """An appliance that nobody gave packages serves everything else."""
    packages = Packages(tmp_path / "none", ["192.0.2.1:8002"], _certificate)
    assert packages.command() == ""
    app = create_app(Replica().services, packages=packages)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="https://appliance"
    ) as client:
        answer = await client.get("/install.sh")
        assert (await client.get("/healthz")).status_code == 200
    assert answer.status_code == 404
    assert "packages_dir" in answer.json()["remedy"]


async def test_downloads_are_few_at_once_and_few_of_one_source() -> None:
    """Who has its places taken is told when to come back; others aren't kept out."""
    limit = DownloadLimit(itertools.count().__next__)
    held = [limit.download("192.0.2.1") for _ in range(module.AT_ONCE_PER_SOURCE)]
    for one in held:
        await one.__aenter__()
    with pytest.raises(TooMany):
        await limit.download("192.0.2.1").__aenter__()
    async with limit.download("192.0.2.2"):
        pass
    for one in held:
        await one.__aexit__(None, None, None)
    async with limit.download("192.0.2.1"):
        pass


async def test_a_source_has_so_many_requests_a_minute() -> None:
    """An IPv6 /64 is one source."""
    now = [0.0]
    limit = DownloadLimit(lambda: now[0])
    for n in range(module.PER_MINUTE):
        async with limit.download(f"2001:db8::{n:x}"):
            pass
    with pytest.raises(TooMany):
        await limit.download("2001:db8::ffff").__aenter__()
    now[0] = 61.0
    async with limit.download("2001:db8::1"):
        pass
