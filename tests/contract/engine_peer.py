"""Runs the engine's example programs, which speak JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def build(example: str) -> Path:
    """Build an example of cairn-engine and return the program."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "build" / "cargo"))
    command = ["cargo", "build", "--quiet", "--package", "cairn-engine"]
    command += ["--features", "testing", "--example", example]
    command += ["--manifest-path", str(ROOT / "agent" / "Cargo.toml")]
    environment = os.environ | {"CARGO_TARGET_DIR": str(target)}
    subprocess.run(command, check=True, env=environment, timeout=600)
    return target / "debug" / "examples" / example


def ask(program: Path, requests: list[dict[str, Any]]) -> list[Any]:
    """Send all requests, a line each, and return the answers."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(
        [program], input=lines, capture_output=True, text=True, check=True, timeout=120
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
