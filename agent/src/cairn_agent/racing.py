"""Work that goes on side by side until one part of it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first_to_end(*sides: Coroutine[Any, Any, object]) -> None:
    """Run all until one ends; end the others, wait for them, and raise the first one's error.

    Not a TaskGroup: before Python 3.13, a group whose task fails in the moment in which the
    group is cancelled raises the failure, and the cancellation is lost.
    """
    tasks = [asyncio.ensure_future(side) for side in sides]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
