"""The list of proofs: what is missing from it or from the tests, and how the table tells."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from rich.console import Console

from tests import proofs
from tools.proofs import report

Node = TypeVar("Node", bound=ast.AST)
ROOT = Path(__file__).resolve().parents[2]
RECORDERS = {
    "record",
    *("_prove", "_proved", "_recorded", "_prove_traffic", "_of_kernel", "_of_best", "_ratio"),
    *("Judged", "rekeys_lose_nothing", "service_holds", "nothing_stalls"),
}


def proof(name: str, *, holds: bool = True) -> dict[str, Any]:
    return {
        "id": name,
        "holds": holds,
        "value": 1,
        "unit": "s",
        "bar": "<= 2 s",
        "what": "something",
        "commit": "0" * 12,
        "at": "2026-01-01T00:00:00+00:00",
    }


def shown(found: list[dict[str, Any]], *expected: str) -> tuple[list[str], str, bool]:
    """Return the lines of the table, the summary, and whether all is good."""
    table, summary, is_good = report(found, dict.fromkeys(expected, "of the list"))
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return [line.strip() for line in captured.get().splitlines()], summary, is_good


def test_what_is_listed_and_holds_is_good() -> None:
    _, summary, is_good = shown([proof("A1"), proof("A1-lost")], "A1", "A1-lost")
    assert is_good
    assert summary == "2 hold, 0 do not, 0 are missing"


def test_a_sibling_does_not_stand_in_for_a_proof() -> None:
    lines, summary, is_good = shown([proof("A14-away")], "A14", "A14-away")
    assert not is_good
    assert summary == "1 hold, 0 do not, 1 are missing"
    assert any(re.match(r"A14 +missing", line) for line in lines)


def test_a_proof_that_is_not_listed_is_told() -> None:
    lines, summary, is_good = shown([proof("A1"), proof("A1-new")], "A1")
    assert not is_good
    assert summary.endswith("1 are not listed: A1-new")
    assert any(re.match(r"A1-new +yes not listed", line) for line in lines)


def test_a_proof_that_does_not_hold_is_told() -> None:
    lines, summary, is_good = shown([proof("A1", holds=False)], "A1")
    assert not is_good
    assert summary == "0 hold, 1 do not, 0 are missing"
    assert any(re.match(r"A1 +NO", line) for line in lines)


def test_what_has_no_line_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "DIRECTORY", tmp_path)
    with pytest.raises(ValueError, match="A1-new has no line"):
        proofs.record("A1-new", what="", bar="", value=0, unit="", holds=True)
    assert list(tmp_path.iterdir()) == []


def test_each_line_is_of_a_proof_that_something_records() -> None:
    """A literal is the id itself; one that is put together from parts is a pattern."""
    literals = {*_literals(), *_ids_in_rust()}
    patterns = [re.compile(each) for each in _patterns()]
    # What is told beside a proof has its name and an end: `f"{proof}-lost"`.
    literals |= {name + end for name in proofs.listed().keys() & literals for end in _ends()}
    unused = [
        each
        for each in proofs.listed()
        if each not in literals and not any(pattern.fullmatch(each) for pattern in patterns)
    ]
    assert unused == []


def test_no_id_has_two_lines() -> None:
    lines = proofs.LIST.read_text("utf-8").splitlines()
    names = [line.split()[0] for line in lines if not line.startswith("#")]
    assert sorted(names) == sorted(proofs.listed())


def test_each_id_that_is_recorded_has_a_line() -> None:
    """Those written out where they are recorded; `record` itself refuses all others."""
    written = {text for text in _recorded_literals() if re.fullmatch(r"[A-Z][\w-]+", text)}
    assert written - proofs.listed().keys() == set()
    assert len(written) > 100


@functools.cache
def _syntax() -> list[ast.AST]:
    files = (file for folder in ("tests", "images") for file in (ROOT / folder).rglob("*.py"))
    modules = [ast.parse(file.read_text("utf-8")) for file in files if file != Path(__file__)]
    return [node for module in modules for node in ast.walk(module)]


def _nodes(kind: type[Node]) -> Iterator[Node]:
    return (node for node in _syntax() if isinstance(node, kind))


def _literals() -> Iterator[str]:
    for node in _nodes(ast.Constant):
        if isinstance(node.value, str):
            yield node.value


def _patterns() -> Iterator[str]:
    """Yield what f-strings may be that begin as an id does."""
    for node in _nodes(ast.JoinedStr):
        texts = [str(part.value) if isinstance(part, ast.Constant) else "" for part in node.values]
        if texts and re.match(r"[A-Z]\w*-[\w-]*$", texts[0]):
            yield "".join(re.escape(text) or r"[\w.-]+" for text in texts)


def _ends() -> Iterator[str]:
    for node in _nodes(ast.JoinedStr):
        match node.values:
            case [ast.FormattedValue(value=ast.Name(id="proof")), ast.Constant(value=str(end))]:
                yield end


def _ids_in_rust() -> Iterator[str]:
    for file in (ROOT / "agent" / "crates").glob("*/tests/*.rs"):
        yield from re.findall(r'\bid: "([\w-]+)"', file.read_text("utf-8"))


def _recorded_literals() -> Iterator[str]:
    for node in _nodes(ast.Call):
        if node.args and _name_of(node.func) in RECORDERS:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
