"""`build/demo/in NODE COMMAND...`: a way into the demo's machines while it stays up."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from tests.demo.stage import Stage
from tests.lab.machine import ROOT, Machine

DOOR = ROOT / "build" / "demo"  # a link to the demo's directory; goes with the demo


@contextmanager
def open_door(stage: Stage) -> Iterator[str]:
    """Make the script and yield its path as a person types it; both go at the end."""
    script = stage.lab.directory / "in"
    nodes = [*stage.nodes.values(), *stage.gateways.values()]
    machines: dict[str, Machine] = {node.name: node.host for node in nodes}
    machines |= {"appliance": stage.appliance.host, "printer": stage.printer}
    script.write_text(_script(machines))
    script.chmod(0o755)
    with contextlib.suppress(FileNotFoundError):
        DOOR.unlink()  # an earlier demo's; the newest is the one that a person looks at
    DOOR.symlink_to(stage.lab.directory)
    try:
        yield str(DOOR.relative_to(ROOT) / "in")
    finally:
        with contextlib.suppress(OSError):
            if DOOR.readlink() == stage.lab.directory:
                DOOR.unlink()


def _script(machines: dict[str, Machine]) -> str:
    lines = ["#!/bin/sh", "# usage: in NODE COMMAND...", 'node=$1; shift; case "$node" in']
    for name, machine in machines.items():
        environment = {"PATH": _path(), **machine.env}
        settings = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
        enter = f"nsenter --target {machine.pid} --all env {settings}"
        lines.append(f'{name}) exec {enter} "$@" ;;')
    lines.append(f'*) echo "in: one of: {" ".join(machines)}" >&2; exit 2 ;;')
    return "\n".join([*lines, "esac"]) + "\n"


def _path() -> str:
    return f"{ROOT / 'build/bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
