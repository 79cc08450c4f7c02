"""Finds the node that a person means: by name, ID, or the first characters of the ID."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cairn_appliance.cli.connection import Connection, path_of
from cairn_appliance.cli.errors import ApiProblem, CommandError, Exit
from cairn_appliance.cli.output import short
from cairn_appliance.cli.replies import Node, Reply

_BEGIN_OF_ID = re.compile(r"[0-9a-f][0-9a-f-]{3,}")


def find_node(connection: Connection, reference: str) -> Reply[Node]:
    """Return the node; raise CommandError with those that fit if it is not exactly one."""
    try:
        return connection.get(path_of("nodes", reference), Node)
    except ApiProblem as problem:
        if problem.code == "ambiguous":
            fitting = [node for node in _nodes(connection) if node.name == reference]
        elif problem.code == "not_found" and _BEGIN_OF_ID.fullmatch(reference.lower()):
            fitting = [each for each in _nodes(connection) if each.id.startswith(reference.lower())]
        else:
            raise
        if not fitting:
            raise
    if len(fitting) > 1:
        raise _ambiguous(reference, fitting)
    return connection.get(path_of("nodes", fitting[0].id), Node)


def _nodes(connection: Connection) -> list[Node]:
    return [reply.value for reply in connection.pages(path_of("nodes"), Node)]


def _ambiguous(reference: str, fitting: Sequence[Node]) -> CommandError:
    lines = tuple(
        f"{node.id}  {node.name}  {node.state}{'  at ' + node.site if node.site else ''}"
        for node in fitting
    )
    return CommandError(
        Exit.BAD_INPUT,
        f"{reference!r} fits {len(fitting)} nodes:",
        f"use enough of the ID, for example {short(fitting[0].id)}",
        lines=lines,
    )
