"""The commands of `cairn-agent`. All but `join`, `leave` and `run` ask the running agent.

What a command alone needs is imported in it: netlink, TLS and HTTP take most of a second.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from cairn_agent import screens
from cairn_agent.agent_socket import Request, as_pinged, as_preflight, as_status, ask
from cairn_agent.errors import AgentError, BadInput, Environment, Refused, Unreachable
from cairn_agent.report import VERSION, Pinged, Status
from cairn_agent.settings import Settings, from_environment

app = typer.Typer(
    help="Joins this machine to vSubnets and keeps it there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
_out = Console(highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        _out.print(f"cairn-agent {VERSION}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    state_dir: Annotated[Path | None, typer.Option(help="Identity and netmap.")] = None,
    runtime_dir: Annotated[Path | None, typer.Option(help="Sockets.")] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Read the settings that all commands share."""
    context.obj = from_environment(os.environ, state_dir, runtime_dir)


@app.command()
def join(
    context: typer.Context,
    token: Annotated[str, typer.Argument(help="The token, or - to read it from stdin.")],
    name: Annotated[str, typer.Option(help="The node's name; default: the host's.")] = "",
) -> None:
    """Join the vSubnets that a token names."""
    from cairn_agent import onboarding

    text = sys.stdin.read(65536) if token == "-" else token
    identity, is_taken_up = asyncio.run(onboarding.join(context.obj, text, name))
    _out.print(f"joined as {identity.name}, node ID {identity.node_id}", markup=False)
    if identity.state == "pending":
        _out.print(f"waits for an operator's approval (cairn node approve {identity.name})")
    if not is_taken_up:
        _out.print("the agent isn't running: start it with `systemctl start cairn-agent`")


@app.command()
def run(context: typer.Context) -> None:
    """Run the agent until SIGTERM; what it set up stays and traffic goes on."""
    from cairn_agent import running

    running.run(context.obj)


@app.command()
def status(context: typer.Context, json: Json = False) -> None:
    """Show node, link, vSubnets and peers on one screen."""
    found = _status(context.obj)
    if json:
        _print_json(found)
    else:
        screens.show_status(_out, found)


@app.command()
def metrics(context: typer.Context) -> None:
    """Print the metrics of this node as Prometheus reads them."""
    from cairn_agent.metrics import exposition

    sys.stdout.write(exposition(_status(context.obj), time.time()).decode())


@app.command()
def peers(context: typer.Context, json: Json = False) -> None:
    """List the peers."""
    found = _status(context.obj)
    if json:
        _print_json(found.peers)
    else:
        screens.show_peers(_out, found.peers, with_keys=True)


@app.command()
def ping(
    context: typer.Context,
    peer: Annotated[str, typer.Argument(help="Name, IP address in a vSubnet, or node ID.")],
    count: Annotated[int, typer.Option("-c", min=1, help="How many; default: until Ctrl-C.")] = 0,
    json: Json = False,
) -> None:
    """Measure the way to a peer inside its session."""
    answers: list[Pinged] = []
    sent = 0
    try:
        while not count or sent < count:
            if sent:
                time.sleep(1.0)
            sent += 1
            answer = _ping_once(context.obj, peer, sent, quiet=json)
            answers += [answer] if answer else []
    except KeyboardInterrupt:
        _out.print()
    if json:
        _print_json({"sent": sent, "answers": answers})
    else:
        screens.show_ping_summary(_out, peer, sent, answers)
    if not answers:
        raise typer.Exit(Unreachable.exit_code)


@app.command()
def preflight(
    context: typer.Context,
    port: Annotated[str, typer.Option(help="LAN interface of this machine.")],
    vsubnet: Annotated[str, typer.Option(help="The vSubnet that it would be bridged to.")],
    vlan: Annotated[int, typer.Option(help="802.1Q tag; default: untagged.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, max=600.0, help="To listen.")] = 20.0,
    json: Json = False,
) -> None:
    """Listen on a LAN, sending nothing, and say what bridging it would mean."""
    request = Request("preflight", port=port, vlan=vlan, vsubnet=vsubnet, listen_s=seconds)
    found = as_preflight(asyncio.run(ask(context.obj.agent_socket, request)))
    if json:
        _print_json(found)
    else:
        screens.show_preflight(_out, found)
    if not found.is_go:
        raise typer.Exit(Environment.exit_code if found.error else Refused.exit_code)


@app.command()
def leave(
    context: typer.Context,
    force: Annotated[bool, typer.Option(help="Also when no appliance answers.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Leave for good: sessions, TAPs and identity are removed."""
    from cairn_agent import onboarding

    if not yes:
        typer.confirm("This node's identity will be gone. Leave?", abort=True)
    asyncio.run(onboarding.leave_cluster(context.obj, force=force))
    _out.print("left; join again with a new token")


@app.command()
def clear(context: typer.Context) -> None:
    """Remove TAPs, bridges and filters from this machine; it stays joined. Stop the agent first."""
    from cairn_agent import onboarding

    asyncio.run(onboarding.clear_host(context.obj))
    _out.print("cleared; what the agent needs it makes anew when it runs again")


@app.command(name="seal-image")
def seal_image(
    context: typer.Context,
    token: Annotated[
        str, typer.Option(help="Let each copy join with it when it boots; - reads stdin.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Remove the identity from a machine whose disk becomes an image; stop the agent first."""
    from cairn_agent import onboarding

    if not yes:
        typer.confirm("This machine's identity will be gone. Seal it?", abort=True)
    text = sys.stdin.read(65536).strip() if token == "-" else token
    gone = asyncio.run(onboarding.seal_image(context.obj, text))
    if gone is not None:
        _out.print(
            f"the identity of {gone.name} ({gone.node_id}) is removed; the appliances still have "
            f"the node: cairn node delete {gone.node_id}",
            markup=False,
        )
    how = "when they first boot" if text else "when they join with a token"
    _out.print(f"sealed: copies of this disk become nodes of their own {how}")


@app.command(name="doctor")
def doctor_command(context: typer.Context, json: Json = False) -> None:
    """Check this machine; each line says ok or what to do."""
    from cairn_agent import doctor

    checks = asyncio.run(doctor.examine(context.obj))
    if json:
        _print_json(checks)
    else:
        screens.show_checks(_out, checks)
    if any(check.verdict == "failed" for check in checks):
        raise typer.Exit(6)


def _status(settings: Settings) -> Status:
    return as_status(asyncio.run(ask(settings.agent_socket, Request("status"))))


def _ping_once(settings: Settings, peer: str, number: int, *, quiet: bool) -> Pinged | None:
    """Ping once; None where no answer came. Raises what more tries won't mend."""
    try:
        answer = as_pinged(asyncio.run(ask(settings.agent_socket, Request("ping", peer=peer))))
    except (BadInput, Unreachable):
        raise
    except AgentError as error:
        if not quiet:
            _out.print(f"no answer from {peer}: seq={number} {error.cause}", markup=False)
        return None
    if not quiet:
        _out.print(
            f"answer from {answer.name}: seq={number} time={answer.rtt_us / 1000:.3f} ms "
            f"via {answer.endpoint}",
            markup=False,
        )
    return answer


def _print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
