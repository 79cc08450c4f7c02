"""The running agent's side of its socket: what it answers to commands."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path
from typing import Any, Final

import msgspec

from cairn_agent.agent_socket import Answer, Failure, Request
from cairn_agent.control.joining import leave, not_this_machine
from cairn_agent.daemon import Agent
from cairn_agent.errors import (
    AgentError,
    BadInput,
    Environment,
    Refused,
    Unreachable,
)
from cairn_agent.gateway.tasks import preflight, vni_named
from cairn_agent.protocol.gateway import PreflightReport, PreflightTask
from cairn_agent.report import Pinged
from cairn_agent.reporting import find_peer, status

log = logging.getLogger(__name__)

_MAX_REQUEST_OCTETS: Final = 64 * 1024
_MAX_CONNECTIONS: Final = 32


async def serve(agent: Agent) -> None:
    """Answer commands until cancelled, and write the file of metrics where one is wanted."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_answer_commands(agent), name="answer commands")
        if agent.settings.metrics_file is not None:
            from cairn_agent.metrics import keep_file  # what few use is not in every agent

            writing = keep_file(agent.settings.metrics_file, lambda: status(agent))
            tasks.create_task(writing, name="write metrics")


async def _answer_commands(agent: Agent) -> None:
    path = agent.settings.agent_socket
    slots = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with slots:
            await _converse(agent, reader, writer)

    listener = _listener(path)
    server = await asyncio.start_unix_server(answer, sock=listener, limit=_MAX_REQUEST_OCTETS)
    try:
        async with server:
            await server.serve_forever()
    finally:
        path.unlink(missing_ok=True)


def _listener(path: Path) -> socket.socket:
    """Return a listening socket that only its owner can use; we hold the lock, so a file
    that is there is a dead agent's."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise Environment(f"can't listen at {path}: {error.strerror}", "check the path") from error
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


async def _converse(
    agent: Agent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        while line := await reader.readline():
            writer.write(msgspec.json.encode(await _answer(agent, line)) + b"\n")
            await writer.drain()
    except (OSError, ValueError) as error:
        log.debug("a command's connection ended: %s", error)
    finally:
        writer.close()


async def _answer(agent: Agent, line: bytes) -> Answer:
    try:
        return Answer(True, await _result(agent, msgspec.json.decode(line, type=Request)))
    except msgspec.MsgspecError as error:
        return Answer(False, error=Failure(2, f"the request can't be read: {error}"))
    except AgentError as error:
        return Answer(False, error=Failure(error.exit_code, error.cause, error.remedy))


async def _result(agent: Agent, request: Request) -> Any:
    match request.op:
        case "status":
            return await status(agent)
        case "ping":
            return await _ping(agent, request)
        case "reload":
            agent.reload()
            return None
        case "preflight":
            return await _preflight(agent, request)
        case "leave":
            return await _leave(agent, request)
        case _:
            raise BadInput(f"the agent knows no {request.op!r}", "update agent and command alike")


async def _ping(agent: Agent, request: Request) -> Pinged:
    peer = find_peer(agent, request.peer)
    if agent.dataplane is None:
        raise agent.dataplane_error or Unreachable("the data plane isn't connected", "wait for it")
    timeout_ms = min(max(request.timeout_ms, 1), 10_000)
    probe = await agent.dataplane.probe(peer.vni, peer.node_id, timeout_ms)
    return Pinged(peer.node_id, peer.name, peer.vni, probe.rtt_us, probe.endpoint)


async def _preflight(agent: Agent, request: Request) -> PreflightReport:
    if not 0 <= request.vlan < 4095:
        raise BadInput(f"{request.vlan} is no VLAN ID", "name one from 1 to 4094, or none")
    vni = vni_named(agent.netmap, request.vsubnet)
    task = PreflightTask("", request.port, request.vlan, vni, request.listen_s)
    return await preflight(agent.netmap, task)


async def _leave(agent: Agent, request: Request) -> None:
    membership = agent.membership
    if membership is None:
        raise Refused("this node hasn't joined", "there is nothing to leave")
    try:
        if membership.waits:
            raise not_this_machine(membership.waits)
        await leave(membership.identity(), "by command")
    except AgentError:
        if not request.force and not membership.identity().barred:
            raise
    agent.forget()
    await agent.settled()
