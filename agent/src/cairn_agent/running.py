"""Runs the agent. Imports no command line: typer and rich would stay in memory for its life."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from cairn_agent import commands, daemon, onboarding, telling
from cairn_agent.host.requirements import check_can_configure
from cairn_agent.settings import Settings


def run(settings: Settings) -> None:
    """Run the agent until SIGTERM; what it set up stays and traffic goes on."""
    level = logging.DEBUG if os.environ.get("CAIRN_AGENT_LOG") == "debug" else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    for noisy in ("httpx", "httpcore", "pyroute2", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    check_can_configure()
    first_boot = onboarding.join_at_first_boot
    asyncio.run(daemon.run(settings, commands.serve, first_boot, telling.tell))
