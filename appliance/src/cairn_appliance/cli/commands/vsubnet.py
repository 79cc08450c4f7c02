"""`cairn vsubnet`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import (
    AsJson,
    RevokeNow,
    Vsubnet,
    Yes,
    connect,
    group,
    length_of_time,
)
from cairn_appliance.cli.output import ago, counted, local, span
from cairn_appliance.cli.replies import Policy, Reply, Rotation, VSubnet

app = group("vSubnets: virtual Ethernet segments.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, for people.")]
Prefixes = Annotated[
    list[str] | None,
    typer.Option(
        "--prefix",
        metavar="PREFIX",
        help="10.7.0.0/24 or fd00:7::/64; one of each family. None: addresses are unmanaged.",
    ),
]
Reserved = Annotated[
    list[str] | None,
    typer.Option(
        "--reserve",
        metavar="RANGE",
        help="10.7.0.10-10.7.0.20: not given to members by itself. Repeatable.",
    ),
]
Mtu = Annotated[int | None, typer.Option(help="Octets of the inner IP packet.", metavar="OCTETS")]
BumPps = Annotated[
    int | None,
    typer.Option(metavar="N", help="Broadcast and multicast frames a second per sending member."),
]
BumBurst = Annotated[int | None, typer.Option(metavar="N", help="How many of them at once.")]
Ageing = Annotated[
    str | None, typer.Option(metavar="TIME", help="Life of a learned address: 300s, 5m.")
]
OfflineTrust = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="How long members go on without any appliance: 24h or more, 0 for ever.",
    ),
]
SharedIps = Annotated[
    list[str] | None,
    typer.Option(
        "--shared-ip",
        metavar="IP",
        help="A virtual address (VRRP) that any member may take. Repeatable; '': none any more.",
    ),
]


@app.command("list")
def list_vsubnets(as_json: AsJson = False) -> None:
    """List all vSubnets."""
    with connect() as connection:
        replies = list(connection.pages(path_of("vsubnets"), VSubnet))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    output.table(
        ("NAME", "VNI", "PREFIXES", "MTU", "MEMBERS", "CREATED"),
        (_row(reply.value) for reply in replies),
        fold=("NAME", "PREFIXES"),
        empty="There is no vSubnet yet: cairn vsubnet create NAME --prefix 10.7.0.0/24",
    )


@app.command()
def show(vsubnet: Vsubnet, as_json: AsJson = False) -> None:
    """Show one vSubnet."""
    with connect() as connection:
        _print(connection.get(path_of("vsubnets", vsubnet), VSubnet), as_json)


@app.command()
def create(
    name: Name,
    prefix: Prefixes = None,
    reserve: Reserved = None,
    mtu: Mtu = None,
    bum_pps: BumPps = None,
    bum_burst: BumBurst = None,
    ageing: Ageing = None,
    offline_trust: OfflineTrust = None,
    shared_ip: SharedIps = None,
    as_json: AsJson = False,
) -> None:
    """Make a vSubnet."""
    policy = _policy(bum_pps, bum_burst, ageing, offline_trust, shared_ip)
    body = _body(None, prefix, reserve, mtu, policy)
    with connect() as connection:
        reply = connection.post(path_of("vsubnets"), VSubnet, {"name": name, **body})
    _print(reply, as_json)
    if not as_json:
        output.say("", f"Let nodes join it: cairn token create --vsubnet {reply.value.name}")


@app.command("set")
def change(
    vsubnet: Vsubnet,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    prefix: Prefixes = None,
    reserve: Reserved = None,
    mtu: Mtu = None,
    bum_pps: BumPps = None,
    bum_burst: BumBurst = None,
    ageing: Ageing = None,
    offline_trust: OfflineTrust = None,
    shared_ip: SharedIps = None,
    as_json: AsJson = False,
) -> None:
    """Change a vSubnet; what is not named stays."""
    policy = _policy(bum_pps, bum_burst, ageing, offline_trust, shared_ip)
    body = _body(name, prefix, reserve, mtu, policy)
    if not body:
        raise CommandError(
            Exit.BAD_INPUT, "nothing to change is named", "look at `cairn vsubnet set --help`"
        )
    with connect() as connection:
        known = connection.get(path_of("vsubnets", vsubnet), VSubnet)
        path = path_of("vsubnets", known.value.id)
        _print(connection.patch(path, VSubnet, body, known.etag), as_json)


@app.command()
def rotate(
    vsubnet: Vsubnet, revoke_now: RevokeNow = False, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Start a new secret of a vSubnet; it happens daily and with each removal by itself."""
    with connect() as connection:
        known = connection.get(path_of("vsubnets", vsubnet), VSubnet).value
        if revoke_now:
            members = output.counted(known.members, "member")
            lost = [f"the sessions of those of its {members} that are out of reach of an appliance"]
            output.confirm(f"End the old secret of {known.name} at once?", lost, yes=yes)
        path = path_of("vsubnets", known.id, "rotate")
        reply = connection.post(path, Rotation, {"revoke_now": revoke_now})
    if as_json:
        output.print_json(reply.whole)
        return
    old = "is over" if revoke_now else "is accepted for another 10 minutes"
    name = output.clean(known.name)
    output.say(
        f"The vSubnet {name} has a new secret, epoch {reply.value.epoch}; the old one {old}."
    )


@app.command()
def delete(vsubnet: Vsubnet, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a vSubnet that has no members."""
    with connect() as connection:
        known = connection.get(path_of("vsubnets", vsubnet), VSubnet)
        found = known.value
        if not found.members:
            output.confirm(f"Delete the vSubnet {found.name}?", _lost(found), yes=yes)
        connection.delete(path_of("vsubnets", found.id), known.etag)
    if as_json:
        output.print_json({"deleted": known.whole})
    else:
        output.say(f"The vSubnet {output.clean(found.name)} is deleted.")


def _lost(vsubnet: VSubnet) -> list[str]:
    return [
        f"VNI {vsubnet.vni}, {', '.join(vsubnet.prefixes) or 'unmanaged addresses'}, "
        f"MTU {vsubnet.mtu}, and its secrets",
        "addresses that were kept for its former members",
        "tokens that name it make no members of it any more",
    ]


def _body(
    name: str | None,
    prefixes: list[str] | None,
    reserved: list[str] | None,
    mtu: int | None,
    policy: dict[str, object],
) -> dict[str, Any]:
    wanted = {
        "name": name,
        "prefixes": prefixes or None,
        "reserved": reserved or None,
        "mtu": mtu,
        "policy": policy or None,
    }
    return {field: value for field, value in wanted.items() if value is not None}


def _policy(
    bum_pps: int | None,
    bum_burst: int | None,
    ageing: str | None,
    offline_trust: str | None,
    shared_ips: list[str] | None,
) -> dict[str, object]:
    wanted: dict[str, object] = {
        "bum_pps": bum_pps,
        "bum_burst": bum_burst,
        "ageing_s": None if ageing is None else _seconds(ageing),
        "offline_trust_s": None if offline_trust is None else _seconds(offline_trust),
        "shared_ips": [ip for ip in shared_ips if ip] if shared_ips else None,
    }
    return {field: value for field, value in wanted.items() if value is not None}


def _seconds(text: str) -> int:
    return 0 if text.strip() == "0" else int(length_of_time(text).total_seconds())


def _row(vsubnet: VSubnet) -> tuple[output.Value, ...]:
    return (
        vsubnet.name,
        str(vsubnet.vni),
        vsubnet.prefixes or "unmanaged",
        str(vsubnet.mtu),
        str(vsubnet.members),
        ago(vsubnet.created_at),
    )


def _print(reply: Reply[VSubnet], as_json: bool) -> None:
    if as_json:
        output.print_json(reply.whole)
        return
    found = reply.value
    created = f"{local(found.created_at)}, {ago(found.created_at)}" if found.created_at else ""
    pairs = [
        ("VNI", str(found.vni)),
        ("prefixes", found.prefixes or "unmanaged: members bring their own addresses"),
        ("reserved", found.reserved),
        ("MTU", counted(found.mtu, "octet")),
        ("members", str(found.members)),
        ("policy", _policy_lines(found.policy)),
        ("created", created),
        ("ID", found.id),
    ]
    output.facts(f"vSubnet {output.clean(found.name)}", pairs)


def _policy_lines(policy: Policy) -> list[str]:
    trust = (
        span(timedelta(seconds=policy.offline_trust_s)) if policy.offline_trust_s else "for ever"
    )
    return [
        f"BUM at most {policy.bum_pps} frames/s per member, {policy.bum_burst} at once",
        f"learned addresses live {span(timedelta(seconds=policy.ageing_s))}",
        f"without any appliance it goes on: {trust}",
        *(f"any member may take {ip}" for ip in policy.shared_ips),
    ]
