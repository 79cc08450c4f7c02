"""Checks of this machine and of the running agent; each says that all is well, or what to do."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from cairn_agent.agent_socket import Request, as_status, ask
from cairn_agent.control.tls import CONNECT_TIMEOUT_S, split_address
from cairn_agent.entropy import has_cpu_generator
from cairn_agent.errors import AgentError
from cairn_agent.host.machine import instance_id
from cairn_agent.host.requirements import can_administer_network, tun_problem
from cairn_agent.report import (
    VERSION,
    Check,
    GatewayReport,
    PeerReport,
    Status,
    VSubnetReport,
)
from cairn_agent.settings import UNDERLAY_PORT, Settings
from cairn_agent.state import StateDir

_SKEW_S = 60.0  # more than this and certificates and logs begin to mislead
_SILENT_S = 30.0


async def examine(settings: Settings) -> list[Check]:
    """Run all checks; none changes anything."""
    checks = [_privileges(), _tun(), _generator(), _instance(), _identity(settings)]
    try:
        status = as_status(await ask(settings.agent_socket, Request("status")))
    except AgentError as error:
        checks.append(Check("agent", "failed", error.cause, error.remedy))
        checks.append(_port_without_agent())
        checks += await _appliances(_known_appliances(settings))
        return checks
    checks += [
        Check("agent", "ok", f"version {status.agent_version} is running"),
        *_dataplane(status),
        _clock(status),
        _link(status),
        *await _appliances(status.link.appliances),
        _endpoints(status),
        *_vsubnets(status),
        *map(_gateway, status.gateways),
        *map(_peer, status.peers),
    ]
    return checks


def _privileges() -> Check:
    if can_administer_network():
        return Check("privileges", "ok", "may configure the network")
    return Check("privileges", "failed", "may not configure the network", "run as root")


def _tun() -> Check:
    problem = tun_problem()
    if problem is None:
        return Check("TAP device", "ok", "/dev/net/tun can be opened")
    return Check("TAP device", "failed", problem, "modprobe tun, or give the container the device")


def _generator() -> Check:
    if has_cpu_generator():
        return Check("CPU generator", "ok", "RDRAND answers")
    return Check(
        "CPU generator",
        "warning",
        "RDRAND is missing or stuck: keys are renewed every 30 s instead",
        "let the hypervisor pass RDRAND to this machine",
    )


def _instance() -> Check:
    """Tell what a token for this machine alone has to name (`cairn token create --instance`)."""
    if own := instance_id():
        return Check("instance ID", "ok", own)
    return Check(
        "instance ID",
        "warning",
        "this machine has none: a token for some machines only can't be used here",
        "systemd-machine-id-setup",
    )


def _identity(settings: Settings) -> Check:
    try:
        identity = StateDir(settings.state_dir).identity()
    except AgentError as error:
        return Check("identity", "failed", error.cause, error.remedy)
    if identity is None:
        return Check("identity", "failed", "not joined", "cairn-agent join TOKEN")
    if identity.barred:
        remedy = "cairn-agent leave --force, then cairn-agent join TOKEN"
        return Check("identity", "failed", identity.barred, remedy)
    if identity.state == "pending" and identity.copy_of:
        original = identity.copy_of_name or identity.copy_of
        remedy = (
            f"an operator says what it is: cairn node approve {identity.name} (a new node), "
            f"or cairn node claim {identity.name} (it is {original})"
        )
        return Check("identity", "warning", f"a copy of {original}, waits", remedy)
    if identity.state == "pending":
        remedy = f"an operator approves it: cairn node approve {identity.name}"
        return Check("identity", "warning", f"{identity.name} waits for approval", remedy)
    return Check("identity", "ok", f"{identity.name}, node ID {identity.node_id}")


def _known_appliances(settings: Settings) -> list[str]:
    try:
        identity = StateDir(settings.state_dir).identity()
    except AgentError:
        return []
    return identity.appliances if identity else []


def _port_without_agent() -> Check:
    """Look who has the UDP port while no agent can say so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("0.0.0.0", UNDERLAY_PORT))
        except OSError:
            return Check(
                "UDP port",
                "warning",
                f"UDP {UNDERLAY_PORT} is in use",
                f"it should be cairn-dataplane: ss -lunp sport = :{UNDERLAY_PORT}",
            )
    return Check("UDP port", "ok", f"UDP {UNDERLAY_PORT} is free for the data plane")


def _dataplane(status: Status) -> list[Check]:
    report = status.dataplane
    if not report.is_up:
        return [Check("data plane", "failed", report.error or "isn't connected", report.remedy)]
    if report.error:
        return [Check("data plane", "failed", report.error, report.remedy)]
    checks = [Check("data plane", "ok", f"version {report.version}, process {report.pid}")]
    if report.version and report.version != VERSION:
        found = f"agent {VERSION}, data plane {report.version}"
        checks.append(Check("versions", "warning", found, "install both from one release"))
    checks += [_offload(name, state) for name, state in sorted(report.offloads.items())]
    if report.entropy == "fallback":
        remedy = "let the hypervisor pass RDRAND to this machine"
        checks.append(Check("data plane's generator", "warning", "no CPU generator", remedy))
    return checks


def _offload(name: str, state: str) -> Check:
    """What this machine lacks costs speed; what this version lacks is no news."""
    is_fine = state == "on" or state.startswith("off: this version")
    return Check(f"offload {name}", "ok" if is_fine else "warning", state)


def _clock(status: Status) -> Check:
    skew_s = status.link.skew_s
    if skew_s is None:
        return Check("clock", "warning", "no appliance has answered to compare with")
    if abs(skew_s) > _SKEW_S:
        word = "behind" if skew_s > 0 else "ahead of"
        found = f"{abs(skew_s):.0f} s {word} the appliance's"
        return Check("clock", "warning", found, "set the clock (timedatectl, chronyc makestep)")
    return Check("clock", "ok", f"within {abs(skew_s):.0f} s of the appliance's")


def _link(status: Status) -> Check:
    link = status.link
    if link.is_up:
        return Check("appliance link", "ok", f"{link.appliance} since {link.age_s:.0f} s")
    found = link.error or "not tried yet"
    return Check("appliance link", "failed", f"down since {link.age_s:.0f} s: {found}", link.remedy)


async def _appliances(addresses: list[str]) -> list[Check]:
    return list(await asyncio.gather(*map(_appliance, addresses)))


async def _appliance(address: str) -> Check:
    name = f"TCP {address}"
    try:
        host, port = split_address(address)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except AgentError as error:
        return Check(name, "failed", error.cause, error.remedy)
    except (OSError, TimeoutError) as error:
        remedy = "let outbound TCP to it through; check that the appliance runs"
        return Check(name, "failed", str(error) or "no answer", remedy)
    writer.close()
    return Check(name, "ok", "can be reached")


def _endpoints(status: Status) -> Check:
    if status.endpoints:
        return Check("own endpoints", "ok", ", ".join(status.endpoints))
    remedy = "give the machine an address outside of every vSubnet's prefixes"
    return Check("own endpoints", "failed", "no underlay address to offer to peers", remedy)


def _vsubnets(status: Status) -> list[Check]:
    checks: list[Check] = []
    for vsubnet in status.vsubnets:
        name = f"vSubnet {vsubnet.name}"
        if vsubnet.problem:
            cause, _, remedy = vsubnet.problem.partition("; ")
            checks.append(Check(name, "failed", cause, remedy))
        else:
            checks.append(_tap_mtu(name, vsubnet))
    return checks


def _tap_mtu(name: str, vsubnet: VSubnetReport) -> Check:
    tap, mtu = vsubnet.tap, vsubnet.tap_mtu
    if mtu < vsubnet.mtu:
        return Check(
            name,
            "warning",
            f"{tap} has MTU {mtu:,}, vSubnet {vsubnet.name} has {vsubnet.mtu:,}: no underlay "
            "interface of this machine carries more",
            f"set the underlay interface's MTU to {vsubnet.mtu + 100:,} or more, or lower the "
            f"vSubnet's: cairn vsubnet set {vsubnet.name} --mtu {mtu}",
        )
    try:
        found = int(Path(f"/sys/class/net/{tap}/mtu").read_text())
    except (OSError, ValueError):
        return Check(name, "ok", f"{tap}, MTU {mtu} by the netmap")
    if found != mtu:
        return Check(name, "warning", f"{tap} has MTU {found}, not {mtu}", "restart the agent")
    return Check(name, "ok", f"{tap}, MTU {mtu}")


def _gateway(gateway: GatewayReport) -> Check:
    where = f"{gateway.port} VLAN {gateway.vlan}" if gateway.vlan else gateway.port
    name = f"gateway {gateway.name} on {where}"
    cause, _, remedy = gateway.why.partition("; ")
    if gateway.code:
        return Check(name, "failed", f"{gateway.state}: {cause}", remedy)
    if gateway.state == "standby" and not gateway.forwarder:
        return Check(name, "warning", f"nobody forwards: {cause}", "cairn gateway list")
    return Check(name, "ok", f"{gateway.state}: {cause}" if cause else gateway.state)


def _peer(peer: PeerReport) -> Check:
    name = f"UDP to {peer.name}"
    if narrow := peer.narrow():
        return Check(f"path MTU to {peer.name}", "warning", *narrow)
    if peer.session == "up" and (peer.last_received_s or 0.0) < _SILENT_S:
        rtt = "" if peer.rtt_us is None else f", {peer.rtt_us / 1000:.2f} ms"
        return Check(name, "ok", f"{peer.path or 'direct'} via {peer.endpoint}{rtt}")
    if peer.session == "up" or not peer.endpoints:
        found = "has said nothing lately" if peer.endpoints else "offers no endpoint"
        return Check(name, "warning", found, f"cairn-agent ping {peer.name}")
    if peer.session == "handshaking":
        where = ", ".join(peer.endpoints)
        return Check(
            name,
            "failed",
            f"UDP {UNDERLAY_PORT} to {where} gets no answer",
            f"let UDP {UNDERLAY_PORT} through in both directions, here and there",
        )
    return Check(name, "ok", f"no session now: nothing was sent; cairn-agent ping {peer.name}")
