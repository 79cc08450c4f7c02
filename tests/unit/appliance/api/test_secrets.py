"""No secret leaves by the operations API, but a token's string and a session, once each."""

from __future__ import annotations

import base64
import hashlib

import httpx
from cairn_agent.protocol.token import decode_token
from cairn_appliance.api.ops_v1.matrix import MATRIX
from cairn_appliance.domain import totp
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services.segments import ProbeKeys
from cairn_appliance.services.vsubnets import Epochs
from cairn_appliance.store import keys, records

from tests.unit.appliance.etcd import CLUSTER_KEYS
from tests.unit.appliance.operations import PASSWORD, Operations


async def secrets_of(ops: Operations, token_text: str, session: str) -> dict[str, str]:
    """Return everything that must not be seen, by what it is."""
    found = {
        "password": PASSWORD,
        "session": session,
        "session without prefix": session.removeprefix("cs1_"),
        "token": token_text,
        "token secret": decode_token(token_text).secret,
        "KEK": CLUSTER_KEYS.kek.decode(),
        "CA key": ops.authority.private_key.decode().splitlines()[1],
    }
    for item in (await ops.store.list(keys.USERS)).items:
        found["password hash"] = item.value.decode().split("$")[-1][:40]
    for item in (await ops.store.list(keys.TOKENS)).items:
        found["token hash"] = records.tokens.decode(item).secret_hash
    for item in (await ops.store.list(keys.PSKS)).items:
        stored = records.psks.decode(item)
        for epoch in stored.epochs:
            found[f"sealed PSK {epoch.epoch}"] = epoch.sealed
            secret = Epochs(ops.sealer).open(stored.vsubnet, epoch.epoch, epoch.sealed)
            found[f"PSK {epoch.epoch}"] = secret
            found[f"PSK {epoch.epoch} in hex"] = base64.b64decode(secret).hex()
    for item in (await ops.store.list(keys.CREDENTIALS)).items:
        known = records.credentials.decode(item)
        if known.totp:
            found["sealed TOTP secret"] = known.totp
            secret = ops.sealer.open("totp/admin", base64.b64decode(known.totp))
            found["TOTP secret"] = totp.base32(secret)
            found["hash of a recovery code"] = known.recovery[0]
    for item in (await ops.store.list(keys.API_TOKENS)).items:
        found["hash of an API token"] = keys.last_part(item.key)
    for item in (await ops.store.list(keys.PROBE_KEYS)).items:
        sealed = records.probe_keys.decode(item)
        found["sealed probe key"] = sealed.sealed
        found["probe key"] = ProbeKeys(ops.sealer).open(sealed.vsubnet, sealed.sealed)
    return found


def seen(secrets: dict[str, str], answer: httpx.Response) -> set[str]:
    text = answer.text + str(answer.headers)
    return {what for what, secret in secrets.items() if secret in text}


async def test_no_answer_holds_a_secret(ops: Operations) -> None:
    session = await ops.login()
    second = ops.app.state.ops.access.second_factor
    secret = base64.b32decode((await second.offer("admin")).secret)
    code = totp.code_at(secret, int(ops.clock() // totp.STEP_S))
    codes = await second.confirm("admin", code, SYSTEM)
    api_token = await ops.api_token(Role.ADMIN)
    async with ops.client(session) as client:
        body = {"name": "office", "prefixes": ["10.7.0.0/24"]}
        answers = [await client.post("/api/v1/vsubnets", json=body)]
        made = await client.post("/api/v1/tokens", json={"vsubnets": ["office"], "max_uses": 5})
        token_text, token_id = made.json()["token"], made.json()["id"]
        await ops.enrol("web-1", token_text)
        lan = {"name": "lan", "vsubnet": "office"}
        answers.append(await client.post("/api/v1/segments", json=lan))
        joined = {"node": "web-1", "port": "eth1"}
        await client.delete("/api/v1/vsubnets/office/members/web-1")
        answers.append(await client.post("/api/v1/segments/lan/gateways", json=joined))
        for method, path in MATRIX:
            if path.endswith(("/stream", "/logout")):
                continue
            url = path.format(
                vsubnet="office",
                node="web-1",
                token=token_id,
                appliance="m1",
                backup="b1",
                segment="lan",
                task="t9",
                user="admin",
                session="0" * 16,
                api_token="0" * 16,
                mac="02:00:00:00:00:07",
                a="web-1",
                b="web-2",
            )
            for content in (None, b"{", b'{"name": "\xff', PASSWORD.encode()):
                answers.append(await client.request(method, url, content=content))
        wrong = {"name": "admin", "password": PASSWORD + "x"}
        answers.append(await client.post("/api/v1/login", json=wrong))
        missing = {"name": 7, "password": PASSWORD}
        answers.append(await client.post("/api/v1/login", json=missing))
        secrets = await secrets_of(ops, token_text, session)
        secrets |= {"API token": api_token, "recovery code": codes[0]}

    assert len(secrets) >= 19
    assert [each.status_code for each in answers[1:3]] == [201, 201]
    assert len({answer.status_code for answer in answers}) > 4
    leaks = {(str(a.request.url), what) for a in answers for what in seen(secrets, a)}
    assert leaks == set()


async def test_a_token_is_told_once_and_can_be_found_in_no_list(ops: Operations) -> None:
    session = await ops.login()
    async with ops.client(session) as client:
        made = await client.post("/api/v1/tokens", json={})
        token = made.json()["token"]
        secrets = await secrets_of(ops, token, session)

        assert seen(secrets, made) == {"token"}
        for path in ("tokens", f"tokens/{made.json()['id']}", "events"):
            assert seen(secrets, await client.get(f"/api/v1/{path}")) == set()


async def test_the_store_holds_neither_tokens_nor_sessions(ops: Operations) -> None:
    session = await ops.login()
    async with ops.client(session) as client:
        headers = {"Idempotency-Key": "0123456789abcdef"}
        made = await client.post("/api/v1/tokens", json={}, headers=headers)
    token = made.json()["token"]

    content = "".join(item.key + item.value.decode() for item in (await ops.store.list("/")).items)

    for secret in (session, session.removeprefix("cs1_"), token, decode_token(token).secret):
        assert secret not in content


async def test_the_store_holds_no_code_no_api_token_and_no_password(ops: Operations) -> None:
    """Nor a plain hash of a password, which could be guessed at without end."""
    second = ops.app.state.ops.access.second_factor
    offered = await second.offer("admin")
    secret = base64.b32decode(offered.secret)
    code = totp.code_at(secret, int(ops.clock() // totp.STEP_S))
    codes = await second.confirm("admin", code, SYSTEM)
    body = b'{"name":"bob","role":"viewer","password":"a long password of bob"}'
    async with ops.client(await ops.session()) as client:
        headers = {"Idempotency-Key": "0123456789abcdef", "Content-Type": "application/json"}
        made = await client.post("/api/v1/users", content=body, headers=headers)
        again = await client.post("/api/v1/users", content=body, headers=headers)
        api = await client.post("/api/v1/api-tokens", json={"name": "ci", "scope": "viewer"})
    assert [each.status_code for each in (made, again, api)] == [201, 201, 201]

    content = b"".join(item.key.encode() + item.value for item in (await ops.store.list("/")).items)

    text = api.json()["token"]
    asked = hashlib.sha256(b"POST /api/v1/users?\n" + body).hexdigest()
    for told in (offered.secret, secret.hex(), text, text[4:], *codes, "password of bob", asked):
        assert told.encode() not in content
    assert hashlib.sha256(text.encode()).hexdigest().encode() in content
