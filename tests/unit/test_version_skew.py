"""What lets N-1 and N understand each other: fields that one side doesn't know are ignored."""

from __future__ import annotations

import inspect
from types import ModuleType

import msgspec
import pytest
from cairn_agent import dataplane, identity
from cairn_agent.protocol import enrolment, netmap, token
from cairn_appliance.domain import joining


def structs(*modules: ModuleType) -> list[type[msgspec.Struct]]:
    return [
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
    ]


@pytest.mark.parametrize(
    "kind",
    structs(enrolment, netmap, token, dataplane, identity, joining),
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_unknown_fields_are_ignored_by_every_message(kind: type[msgspec.Struct]) -> None:
    assert not kind.__struct_config__.forbid_unknown_fields


def test_a_message_of_the_next_version_is_read() -> None:
    sent = enrolment.RegisterRequest(1, enrolment.Facts(), [], "vm", "0.2.0", protocol=2)
    newer = msgspec.to_builtins(sent) | {"future": {"a": [1]}}
    newer["facts"]["tpm"] = "x"
    read = msgspec.json.decode(msgspec.json.encode(newer), type=enrolment.RegisterRequest)
    assert read == sent


def test_a_line_of_the_next_version_is_read_or_skipped() -> None:
    line = b'{"type":"in_sync","revision":7,"future":1}'
    assert netmap.decode_received(line) == netmap.InSync(7)
    assert netmap.decode_received(b'{"type":"future","x":[]}') == netmap.Unknown("future")
