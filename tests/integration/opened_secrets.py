"""Prints every secret that an appliance's store has sealed, opened with its KEK, as JSON.

`python -m tests.integration.opened_secrets DATA_DIR`, in the network of that appliance. What is
text is told as such, octets in base64, private keys in PEM.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.etcd_process import client_tls
from cairn_appliance.pki.keyring import Keyring, open_authority, open_map_key
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services.segments import ProbeKeys
from cairn_appliance.services.vsubnets import Epochs
from cairn_appliance.store import keys, records
from cairn_appliance.store.etcd import EtcdStore

Found = AsyncIterator[tuple[str, str, str]]  # name, "text", "octets" or "pem", value


async def opened(data_dir: Path) -> Found:
    """Yield all of them."""
    local = bootstrap.load(data_dir)
    store = EtcdStore([local.etcd_endpoint], client_tls(local))
    try:
        ring = await bootstrap.load_secrets(store, local)
        for each in _of_cluster(local, ring):
            yield each
        for parts in (_of_vsubnets, _of_people, _hashes):
            async for found in parts(store, local.sealer):
                yield found
    finally:
        await store.close()


def _of_cluster(local: bootstrap.Local, ring: Keyring) -> list[tuple[str, str, str]]:
    trust = ring.as_trust()
    issuers = {"issuing CA": trust.authorities.issuer, "other CA": trust.authorities.other}
    signers = {"map key": trust.map_keys.current, "next map key": trust.map_keys.next}
    etcd = local.sealer.open("etcd-ca-key", local.pki("etcd-ca-key.sealed").read_bytes())
    return [
        ("KEK", "octets", _text((local.data_dir / "kek").read_bytes())),
        ("audit's signing key", "octets", _text(local.sealer.derive("audit-sign"))),
        ("audit's digest key", "octets", _text(local.sealer.derive("audit-digest"))),
        ("etcd's CA key", "pem", etcd.decode()),
        *(
            (f"{name}'s key", "pem", open_authority(local.sealer, sealed).private_key.decode())
            for name, sealed in issuers.items()
            if sealed
        ),
        *(
            (name, "octets", _text(open_map_key(local.sealer, sealed).to_octets()))
            for name, sealed in signers.items()
            if sealed
        ),
    ]


async def _of_vsubnets(store: EtcdStore, sealer: Sealer) -> Found:
    names = {
        each.id: each.name
        for item in (await store.list(keys.VSUBNETS)).items
        for each in [records.vsubnets.decode(item)]
    }
    for item in (await store.list(keys.PSKS)).items:
        psks = records.psks.decode(item)
        for epoch in psks.epochs:
            secret = Epochs(sealer).open(psks.vsubnet, epoch.epoch, epoch.sealed)
            yield f"PSK {epoch.epoch} of {names[psks.vsubnet]}", "octets", secret
    for item in (await store.list(keys.PROBE_KEYS)).items:
        sealed = records.probe_keys.decode(item)
        key = ProbeKeys(sealer).open(sealed.vsubnet, sealed.sealed)
        yield f"probe key of {names[sealed.vsubnet]}", "octets", key


async def _of_people(store: EtcdStore, sealer: Sealer) -> Found:
    for item in (await store.list(keys.CREDENTIALS)).items:
        known = records.credentials.decode(item)
        name = keys.last_part(item.key)
        if known.totp:
            secret = sealer.open(f"totp/{name}", base64.b64decode(known.totp))
            yield f"TOTP secret of {name}", "octets", _text(secret)


async def _hashes(store: EtcdStore, _: Sealer) -> Found:
    for item in (await store.list(keys.USERS)).items:
        user = records.users.decode(item)
        yield f"hash of {user.name}'s password", "text", user.password_hash.split("$")[-1]
    for item in (await store.list(keys.TOKENS)).items:
        token = records.tokens.decode(item)
        yield f"hash of token {token.id}", "text", token.secret_hash
    for kind, prefix in (("session", keys.SESSIONS), ("API token", keys.API_TOKENS)):
        for number, item in enumerate((await store.list(prefix)).items):
            yield f"hash of {kind} {number}", "text", keys.last_part(item.key)
    for item in (await store.list(keys.CREDENTIALS)).items:
        known = records.credentials.decode(item)
        for number, code in enumerate(known.recovery):
            yield f"hash of recovery code {number} of {keys.last_part(item.key)}", "text", code


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


async def _main() -> None:
    print(json.dumps([found async for found in opened(Path(sys.argv[1]))]))


if __name__ == "__main__":
    asyncio.run(_main())
