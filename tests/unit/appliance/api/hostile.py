"""Hostile requests, few or many: what is around them, what they are about, what came back.

`make hostile` asks for many by CAIRN_HOSTILE_EXAMPLES and reads the answers that
CAIRN_HOSTILE_FIGURES (a directory) has of each worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from cairn_appliance.store.keys import AUDIT, EVENTS, ROOT
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import MAX_WRITES, Delete, Put
from hypothesis import HealthCheck
from hypothesis import strategies as st

from tests.unit.appliance.api.described import CHECKS

EXAMPLES = "CAIRN_HOSTILE_EXAMPLES"
FIGURES = "CAIRN_HOSTILE_FIGURES"
# Headers that are looked at somewhere, and some that nobody should look at.
_HEADERS = (
    *("Accept", "Accept-Encoding", "Accept-Language", "Content-Encoding", "Content-Language"),
    *("Cookie", "Expect", "Forwarded", "Host", "Idempotency-Key", "If-Match", "If-None-Match"),
    *("Last-Event-ID", "Origin", "Range", "Referer", "User-Agent", "X-CSRF-Token"),
    *("X-Cairn-Console", "X-Forwarded-For", "X-HTTP-Method-Override"),
)
_QUERIES = ("after", "cursor", "follow", "format", "kind", "limit", "page", "q", "since", "x")
_VISIBLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40).map(
    str.strip
)
_AROUND = st.tuples(
    st.booleans(),
    st.dictionaries(st.sampled_from(_HEADERS), _VISIBLE, max_size=3),
    st.dictionaries(st.sampled_from(_QUERIES), st.text(max_size=20), max_size=2),
    st.booleans(),
)


def settings(few: int) -> hypothesis.settings:
    """How often an operation is tried: `few` times unless many are asked for."""
    examples = int(os.environ.get(EXAMPLES, few))
    return hypothesis.settings(
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
        database=None,
        deadline=None,
    )


def dress(
    schema: schemathesis.BaseSchema, real: Callable[[], Mapping[str, str]] = dict
) -> schemathesis.BaseSchema:
    """Have half of the requests be about things that there are, amid headers that nobody asked for.

    So those without any parameter differ from each other, too. `real`: things that there
    are, by the name of the path's parameter.
    """

    def dressed(drawn: tuple[schemathesis.Case, tuple[Any, ...]]) -> schemathesis.Case:
        case, (is_real, headers, queries, is_current) = drawn
        if is_real:
            there = real()
            case.path_parameters.update(
                {name: there[name] for name in case.path_parameters if name in there}
            )
        if is_current:
            headers = {**headers, "If-Match": "*"}
        for name, value in headers.items():
            case.headers.setdefault(name, value)
        for name, value in queries.items():
            case.query.setdefault(name, value)
        return case

    @schema.hook
    def before_generate_case(
        context: schemathesis.HookContext, strategy: st.SearchStrategy[schemathesis.Case]
    ) -> st.SearchStrategy[schemathesis.Case]:
        return st.tuples(strategy, _AROUND).map(dressed)

    return schema


def check(who: str, case: schemathesis.Case, **sent: Any) -> None:
    """Send a request, note what came back, and fail unless that is as it is described."""
    answer = case.call(**sent)
    _note(who, case, answer.status_code)
    case.validate_response(answer, CHECKS)


def _note(who: str, case: schemathesis.Case, status: int) -> None:
    """Append a line: who asked for what, the status, whether that is among those described."""
    directory = os.environ.get(FIGURES)
    if directory is None:
        return
    operation = case.operation
    # A method that the path has not is no operation: what it gets is 405.
    is_other = case.method.upper() != operation.method.upper()
    described = ["405"] if is_other else operation.definition.raw["responses"]
    words = [
        f"{who}:{'other-method' if is_other else operation.method.upper()}:{operation.path}",
        str(status),
        "described" if {str(status), f"{status // 100}XX"} & set(described) else "undescribed",
    ]
    with Path(directory, str(os.getpid())).open("a") as file:
        file.write(" ".join(words) + "\n")


class Standing:
    """What a store had at the beginning, to be put back before each request.

    Events and the audit go on: the appliance's own memory has where their chain ends.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._items: dict[str, bytes] = {}

    async def take(self) -> None:
        """Remember what there is now."""
        self._items = await self._now()

    async def put_back(self) -> None:
        """Make it so again."""
        now = await self._now()
        writes: list[Put | Delete] = [Delete(key) for key in now.keys() - self._items.keys()]
        writes += [Put(k, v) for k, v in self._items.items() if now.get(k) != v]
        for first in range(0, len(writes), MAX_WRITES):
            await self._store.commit([], writes[first : first + MAX_WRITES])

    async def _now(self) -> dict[str, bytes]:
        items = (await self._store.list(ROOT)).items
        return {item.key: item.value for item in items if not item.key.startswith((EVENTS, AUDIT))}
