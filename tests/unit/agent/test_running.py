"""What stays in the memory of a running agent."""

from __future__ import annotations

import json
import subprocess
import sys

CALL = """
import json, sys
from cairn_agent import main, running
running.run = lambda settings: print(json.dumps([str(settings.state_dir), list(sys.modules)]))
sys.argv = ["cairn-agent", *sys.argv[1:]]
main.main()
"""
# httpx loads click and rich for a command of its own where both are; packages bring no click.
COMMAND_LINE = {"cairn_agent.cli", "typer"}


def _loaded(*arguments: str) -> tuple[str, set[str]]:
    command = [sys.executable, "-c", CALL, *arguments]
    state_dir, modules = json.loads(
        subprocess.run(
            command,
            env={"CAIRN_STATE_DIR": "/nowhere/else"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    return state_dir, set(modules)


def test_run_as_the_unit_has_it_loads_no_command_line() -> None:
    """The same settings are read; with an option, the command line reads them."""
    state_dir, modules = _loaded("run")
    assert state_dir == "/nowhere/else"
    assert "cairn_agent.daemon" in modules
    assert not COMMAND_LINE & modules
    state_dir, modules = _loaded("--state-dir", "/named", "run")
    assert state_dir == "/named"
    assert "cairn_agent.cli" in modules
