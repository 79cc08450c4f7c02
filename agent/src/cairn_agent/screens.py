"""How reports look at a terminal; each number with its unit, each state with its age."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cairn_agent.protocol.gateway import PreflightReport
from cairn_agent.report import (
    Check,
    GatewayReport,
    PeerReport,
    Pinged,
    Status,
    VSubnetReport,
)

_LEVELS = {"info": "[dim]info[/]", "handled": "[green]handled[/]", "no_go": "[red]no-go[/]"}
_LEADS = {"info": "note", "handled": "guard", "no_go": "what to do"}
_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[red]failed[/]"}


def show_status(out: Console, status: Status) -> None:
    """Print one screen."""
    if status.state == "none":
        out.print("not joined yet: cairn-agent join TOKEN")
        return
    facts = Table.grid(padding=(0, 2))
    for name, text in _facts(status):
        facts.add_row(name, text)
    out.print(facts)
    if status.vsubnets:
        out.print(_vsubnet_table(status.vsubnets))
    if status.gateways:
        out.print(_gateway_table(status.gateways))
    if status.peers:
        show_peers(out, status.peers)
    for clone in status.clones:
        _warn(out, *clone.told())


def show_peers(out: Console, peers: Sequence[PeerReport], *, with_keys: bool = False) -> None:
    """Print the peers, and below them what is wrong with their paths and what to do."""
    out.print(peer_table(peers, with_keys=with_keys))
    for narrow in filter(None, (peer.narrow() for peer in peers)):
        _warn(out, *narrow)


def _warn(out: Console, found: str, remedy: str) -> None:
    out.print(f"[yellow]warning[/]: {escape(found)}; what to do: {escape(remedy)}")


def peer_table(peers: Sequence[PeerReport], *, with_keys: bool = False) -> Table:
    """Return the peers as a table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = [
        "PEER",
        "SITE",
        "VSUBNET",
        "IP",
        "PATH",
        "ENDPOINT",
        "RTT",
        "MTU",
        "SENT",
        "RECEIVED",
    ]
    columns += ["KEY AGE", "NODE ID"] if with_keys else ["KEY AGE"]
    for column in columns:
        table.add_column(column, overflow="fold")
    for peer in peers:
        cells = [
            peer.name,
            peer.site or "-",
            peer.vsubnet,
            ", ".join(ip.partition("/")[0] for ip in peer.ips) or "-",
            _path(peer),
            peer.endpoint or "-",
            "-" if peer.rtt_us is None else f"{peer.rtt_us / 1000:.2f} ms",
            "-" if peer.mtu is None else str(peer.mtu),
            octets(peer.tx_octets),
            octets(peer.rx_octets),
            "-" if peer.key_age_s is None else age(peer.key_age_s),
        ]
        table.add_row(*map(escape, cells + ([peer.node_id] if with_keys else [])))
    return table


def show_checks(out: Console, checks: Sequence[Check]) -> None:
    """Print one line a check, and below it what to do."""
    table = Table.grid(padding=(0, 2))
    for check in checks:
        table.add_row(_MARKS[check.verdict], escape(check.name), escape(check.found))
        if check.remedy and check.verdict != "ok":
            table.add_row("", "", f"what to do: {escape(check.remedy)}")
    out.print(table)


def show_preflight(out: Console, report: PreflightReport) -> None:
    """Print what a pre-flight heard, the worst first, and go or no-go."""
    if report.error:
        out.print(f"[red]not done[/]: {escape(report.error)}")
        return
    table = Table.grid(padding=(0, 2))
    for finding in report.findings:
        table.add_row(_LEVELS[finding.level], escape(finding.what))
        table.add_row("", f"{_LEADS[finding.level]}: {escape(finding.guard)}")
    out.print(table)
    verdict = "[green]go[/]" if report.is_go else "[red]no-go[/]"
    out.print(f"{verdict}: {report.frames:,} frames heard in {report.heard_s:.0f} s")


def show_ping_summary(out: Console, peer: str, sent: int, answers: Sequence[Pinged]) -> None:
    """Print what ping(8) prints at its end."""
    lost = 100 * (sent - len(answers)) // sent if sent else 0
    out.print(f"{sent} sent, {len(answers)} answered, {lost}% lost")
    if answers:
        times = [answer.rtt_us / 1000 for answer in answers]
        mean = sum(times) / len(times)
        out.print(f"rtt min/avg/max = {min(times):.3f}/{mean:.3f}/{max(times):.3f} ms")


def age(seconds: float) -> str:
    """Return 12 s, 3 min, 5 h, 2 d."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def octets(count: int) -> str:
    """Return 812 B, 3.4 MB."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _facts(status: Status) -> list[tuple[str, str]]:
    link, dataplane = status.link, status.dataplane
    facts = [
        ("node", escape(f"{status.name} ({status.node_id})")),
        ("site", escape(status.site) or "-"),
        ("state", _state(status)),
        ("appliance", _link(status)),
        ("netmap", f"revision {status.revision}, {_confirmed(status)}"),
        (
            "data plane",
            "[green]up[/]" if dataplane.is_up and not dataplane.error else _down(status),
        ),
        ("endpoints", ", ".join(status.endpoints) + (" behind NAT" if status.behind_nat else "")),
    ]
    if link.remedy and not link.is_up:
        facts.insert(4, ("", f"what to do: {escape(link.remedy)}"))
    return facts


def _state(status: Status) -> str:
    if status.state == "barred":
        return (
            f"[red]not a member[/]: {escape(status.barred)}; to come back: "
            "cairn-agent leave --force, then cairn-agent join TOKEN"
        )
    if status.waits:
        return f"[yellow]waits[/]: {escape(status.waits)}"
    if status.state == "pending" and status.copy_of:
        return (
            f"[yellow]a copy of {escape(status.copy_of)}[/], waits for an operator: "
            f"cairn node approve {escape(status.name)} (a new node), or "
            f"cairn node claim {escape(status.name)} (it is {escape(status.copy_of)})"
        )
    if status.state == "pending":
        return f"[yellow]waits for approval[/] (cairn node approve {escape(status.name)})"
    return "[green]member[/]"


def _link(status: Status) -> str:
    link = status.link
    if link.is_up:
        return f"[green]up[/] since {age(link.age_s)}, {link.appliance}"
    if status.state == "barred":
        return "not asked"
    return f"[yellow]down[/] since {age(link.age_s)}: {escape(link.error or 'not tried yet')}"


def _confirmed(status: Status) -> str:
    if status.link.heard_s is None:
        return f"kept from before, without an appliance for {age(status.offline_s)}"
    return f"confirmed {age(status.link.heard_s)} ago"


def _down(status: Status) -> str:
    report = status.dataplane
    text = f"[red]down[/]: {escape(report.error or 'not connected yet')}"
    return f"{text}; what to do: {escape(report.remedy)}" if report.remedy else text


def _vsubnet_table(vsubnets: Sequence[VSubnetReport]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("VSUBNET", "TAP", "MAC", "IP", "MTU", "MEMBERS", "SENT", "RECEIVED", "STATE"):
        table.add_column(column, overflow="fold")
    for vsubnet in vsubnets:
        table.add_row(
            escape(vsubnet.name),
            vsubnet.tap,
            vsubnet.mac,
            ", ".join(vsubnet.ips) or "-",
            str(vsubnet.mtu),
            str(vsubnet.members),
            octets(vsubnet.tx_octets),
            octets(vsubnet.rx_octets),
            f"[red]{escape(vsubnet.problem)}[/]" if vsubnet.problem else "[green]up[/]",
        )
    return table


def _gateway_table(gateways: Sequence[GatewayReport]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("SEGMENT", "PORT", "VLAN", "TERM", "STATIONS", "GATEWAY"):
        table.add_column(column, overflow="fold")
    for each in gateways:
        color = "red" if each.code else "green"
        text = f": {escape(each.why)}" if each.why else ""
        table.add_row(
            escape(each.name),
            escape(each.port),
            str(each.vlan) if each.vlan else "-",
            str(each.term) if each.term else "-",
            str(each.stations),
            f"[{color}]{each.state}[/]{text}",
        )
    return table


def _path(peer: PeerReport) -> str:
    return (peer.path or "direct") if peer.session == "up" else peer.session
