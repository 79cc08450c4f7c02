"""`join`, `leave`, `seal-image`: what changes who this node is; and the first boot of a copy
of a sealed image."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator

import msgspec
from pyroute2 import AsyncIPRoute

from cairn_agent.agent_socket import Request, ask
from cairn_agent.control.backoff import Backoff
from cairn_agent.control.joining import enrol, leave, not_this_machine
from cairn_agent.daemon import Agent, nobody
from cairn_agent.dataplane import connected
from cairn_agent.errors import (
    AgentError,
    BadInput,
    Environment,
    Refused,
    StateUnusable,
    Unreachable,
)
from cairn_agent.files import held_lock, probe_space
from cairn_agent.host.bridge import remove_other_bridges
from cairn_agent.host.bridge_journal import Journal
from cairn_agent.host.machine import host_name, machine_facts, same_machine
from cairn_agent.host.network import read_network
from cairn_agent.host.taps import remove_other_taps
from cairn_agent.identity import Identity, new_keys
from cairn_agent.netmap.desired import nothing
from cairn_agent.protocol.token import TokenError, decode_token
from cairn_agent.report import VERSION
from cairn_agent.settings import Settings
from cairn_agent.state import RuntimeDir, StateDir

log = logging.getLogger(__name__)

_IDENTITY_OCTETS = 64 * 1024  # more than an identity and its first netmap need


async def join(settings: Settings, token_text: str, name: str) -> tuple[Identity, bool]:
    """Enrol with a token; return the identity and whether a running agent took it up.

    Everything that can be checked is checked before the token is used: a refused token
    or a full disk leaves the machine as it was. Where no answer came, the token may have been
    used: the keys are kept, and joining again with the same token goes on as the same node.
    """
    try:
        token = decode_token(token_text)
    except TokenError as error:
        raise BadInput(f"this is not a usable token: {error}", "paste the whole token") from error
    state = StateDir(settings.state_dir)
    with _changing(state):
        probe_space(state.path, _IDENTITY_OCTETS)
        before = state.identity()
        if before is not None and not before.barred:
            raise Refused(
                f"this machine has joined already, as {before.name} ({before.node_id})",
                "run `cairn-agent leave` first if it shall become a new node",
            )
        async with AsyncIPRoute() as netlink:
            facts = machine_facts(await read_network(netlink))
        keys = state.attempted(token.id) or new_keys()
        try:
            identity = await enrol(
                token,
                keys,
                name=name or host_name(),
                facts=facts,
                version=VERSION,
                before_sending=lambda: state.keep_attempt(token.id, keys),
            )
        except Refused:
            state.forget_attempt()
            raise
        if before is not None:
            state.forget_membership()
        state.keep_identity(msgspec.structs.replace(identity, machine=facts))
        state.forget_attempt()
    return identity, await _tell_running_agent(settings)


async def leave_cluster(settings: Settings, *, force: bool) -> None:
    """Give up the identity, with sessions and TAPs; raise Unreachable where no appliance
    could be told, unless forced."""
    try:
        await ask(settings.agent_socket, Request("leave", force=force))
    except Unreachable:
        if settings.agent_socket.exists():
            raise
    else:
        return
    state = StateDir(settings.state_dir)
    with _changing(state), held_lock(state.lock, "the agent"):
        await _leave_alone(settings, state, force=force)


async def seal_image(settings: Settings, token_text: str = "") -> Identity | None:
    """Remove everything that makes this machine a node; return the identity that is gone.

    Copies of the disk then make identities of their own: when somebody joins them, or by
    themselves when they first boot where a token is left in the image. Nothing is sent to
    the appliances. The agent must not run.
    """
    if token_text:
        try:
            decode_token(token_text)
        except TokenError as error:
            raise BadInput(f"this is not a usable token: {error}", "paste it whole") from error
    state = StateDir(settings.state_dir)
    with _changing(state), held_lock(state.lock, "the agent"):
        try:
            identity = state.identity()
        except StateUnusable:
            identity = None  # it is to be removed, readable or not
        await _clear(settings)
        state.forget()
        state.forget_first_boot_token()
        RuntimeDir(settings.runtime_dir).forget()
        if token_text:
            state.keep_first_boot_token(token_text)
    return identity


async def clear_host(settings: Settings) -> None:
    """Make this machine what it was before the agent configured it, and stay joined: the agent
    makes everything anew when it runs again. The agent must not run."""
    state = StateDir(settings.state_dir)
    with _changing(state), held_lock(state.lock, "the agent"):
        await _clear(settings)


async def join_at_first_boot(agent: Agent) -> None:
    """Join with the token that a sealed image carries, until that worked or was refused."""
    backoff = Backoff(first_s=3.0, max_s=60.0)
    while agent.membership is None and (token := agent.state.first_boot_token()):
        try:
            identity, is_taken_up = await join(agent.settings, token, "")
        except (Unreachable, Environment) as error:
            log.warning("no join at first boot yet: %s", error.cause)
            await asyncio.sleep(backoff.next_s())
        except AgentError as error:
            log.error("no join at first boot: %s; %s", error.cause, error.remedy)  # noqa: TRY400
            return
        else:
            log.warning("joined at first boot as %s node=%s", identity.name, identity.node_id)
            agent.state.forget_first_boot_token()
            if not is_taken_up:
                agent.reload()
            return


async def _leave_alone(settings: Settings, state: StateDir, *, force: bool) -> None:
    """Leave while no agent runs."""
    try:
        identity = state.identity()
        if identity is None and not force:
            raise Refused("this machine hasn't joined", "there is nothing to leave")
        if identity is not None:
            await _check_machine(identity)
            await leave(identity, "by command")
    except AgentError:
        if not force:
            raise
    await _clear(settings)
    state.forget()


async def _clear(settings: Settings) -> None:
    """End sessions, take bridges apart and remove TAPs while no agent runs."""
    with contextlib.suppress(Unreachable):
        async with connected(settings.dataplane_socket) as dataplane:
            await dataplane.clear(nothing(nobody()).state)
    async with AsyncIPRoute() as netlink:
        await remove_other_bridges(netlink, (), Journal(settings.bridge_journal))
        await remove_other_taps(netlink, ())


async def _check_machine(identity: Identity) -> None:
    """Raise Refused on another machine than the one that registered last."""
    async with AsyncIPRoute() as netlink:
        facts = machine_facts(await read_network(netlink))
    if identity.machine is not None and not same_machine(identity.machine, facts):
        raise not_this_machine("it isn't the machine that has been this node")


async def _tell_running_agent(settings: Settings) -> bool:
    try:
        await ask(settings.agent_socket, Request("reload"))
    except Unreachable:
        return False
    return True


@contextlib.contextmanager
def _changing(state: StateDir) -> Iterator[None]:
    """Hold the right to change the identity."""
    if os.geteuid() != 0 and not os.access(state.path.parent, os.W_OK):
        raise Environment(f"{state.path} can't be written by this user", "run the command as root")
    state.prepare()
    with held_lock(state.join_lock, "another cairn-agent join or leave"):
        yield
