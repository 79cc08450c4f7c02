"""The console's files: what is answered to whom, in which coding, kept for how long."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from cairn_appliance.api.console import ROUTES, Console
from starlette.responses import PlainTextResponse

SOURCE = Path(__file__).resolve().parents[4] / "appliance" / "console" / "src" / "app" / "App.tsx"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Return a directory as a build leaves it."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<html>first</html>")
    (tmp_path / "assets" / "index-abc.js").write_text("plain")
    (tmp_path / "assets" / "index-abc.js.gz").write_bytes(b"gz")
    (tmp_path / "assets" / "index-abc.js.br").write_bytes(b"br")
    (tmp_path.parent / "secret").write_text("secret")
    return tmp_path


async def ask(
    directory: Path | None, path: str, method: str = "GET", **headers: str
) -> httpx.Response:
    api = PlainTextResponse("the API")
    transport = httpx.ASGITransport(Console(api, directory))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=transport, base_url="https://appliance") as client:
        return await client.request(method, path, headers={"accept-encoding": "", **named})


@pytest.mark.parametrize("path", ["/", "/nodes", "/nodes/web-1", "/vsubnets/a?q=b", "/index.html"])
async def test_an_address_of_the_console_is_its_first_page(built: Path, path: str) -> None:
    answer = await ask(built, path)

    assert (answer.status_code, answer.text) == (200, "<html>first</html>")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-cache"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert (await ask(built, path, if_none_match=answer.headers["etag"])).status_code == 304


@pytest.mark.parametrize("path", ["/api/v1/nodes", "/api/v1/unknown", "/healthz", "/readyz"])
async def test_what_is_an_apis_is_passed_on(built: Path, path: str) -> None:
    assert (await ask(built, path)).text == "the API"
    assert (await ask(built, path, "POST")).text == "the API"


@pytest.mark.parametrize(
    ("accepted", "coding", "body"),
    [
        ("gzip, deflate, br", "br", "br"),
        ("gzip", "gzip", "gz"),
        ("br;q=0, gzip", "gzip", "gz"),
        ("identity", None, "plain"),
    ],
)
async def test_files_are_compressed_as_the_client_takes_it(
    built: Path, accepted: str, coding: str | None, body: str
) -> None:
    transport = httpx.ASGITransport(Console(PlainTextResponse("the API"), built))
    async with (
        httpx.AsyncClient(transport=transport, base_url="https://appliance") as client,
        client.stream(
            "GET", "/assets/index-abc.js", headers={"accept-encoding": accepted}
        ) as answer,
    ):
        raw = b"".join([piece async for piece in answer.aiter_raw()])

    assert (answer.headers.get("content-encoding"), raw.decode()) == (coding, body)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "path",
    [
        "/unknown",
        "/assets/gone.js",
        "/assets/index-abc.js.br",
        "/../secret",
        "/%2e%2e/secret",
        "/assets/..%2f..%2fsecret",
        "/assets",
    ],
)
async def test_nothing_else_is_there(built: Path, path: str) -> None:
    answer = await ask(built, path)

    assert answer.status_code == 404
    assert "secret" not in answer.text.replace(path, "").replace("/secret", "")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_files_are_only_read(built: Path) -> None:
    answer = await ask(built, "/nodes", "POST")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_an_appliance_without_its_console_says_so_in_a_plain_page() -> None:
    answer = await ask(None, "/")

    assert answer.status_code == 503
    assert "The console was not built" in answer.text
    assert (await ask(None, "/api/v1/nodes")).text == "the API"


async def test_a_console_that_was_built_anew_is_served_without_a_restart(built: Path) -> None:
    console = httpx.ASGITransport(Console(PlainTextResponse("the API"), built))
    async with httpx.AsyncClient(transport=console, base_url="https://appliance") as client:
        assert (await client.get("/")).text == "<html>first</html>"
        (built / "assets" / "index-new.js").write_text("new")
        (built / "index.html").write_text("<html>second</html>")
        assert (await client.get("/")).text == "<html>second</html>"
        assert (await client.get("/assets/index-new.js")).text == "new"


def test_the_appliance_knows_each_address_of_the_console() -> None:
    used = set(re.findall(r'(?:page\(|path: )"/([a-z]+)', SOURCE.read_text()))

    assert used
    assert used <= ROUTES
