"""`cairn event-output`, against a real HTTPS server of this process."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.appliance.cli.conftest import Shell


def test_receivers_are_added_listed_tried_and_deleted(logged_in: Shell, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("what both of them know\n")
    assert "cairn event-output add" in logged_in.ok("event-output", "list")
    text = logged_in.ok(
        "event-output", "add", "syslog+tls://log.example", "--min-severity", "alarm"
    )
    assert "syslog+tls://log.example:6514 is told of events" in text
    hook = json.loads(
        logged_in.ok(
            "event-output", "add", "https://siem.example/in", "--secret-file", str(secret), "--json"
        )
    )[0]
    listed = logged_in.ok("event-output", "list")
    assert "https://siem.example/in" in listed
    assert "alarm" in listed

    tried = logged_in("event-output", "test", hook["id"])
    assert tried.code == 3
    assert "nobody is there" in tried.out

    asked = logged_in("event-output", "delete", hook["id"])
    assert asked.code == 2
    assert "https://siem.example/in gets no event any more" in asked.err
    logged_in.ok("event-output", "delete", hook["id"], "--yes")
    shown = json.loads(logged_in.ok("event-output", "list", "--json"))
    assert shown["webhooks"] == []
    assert shown["syslog"][0]["min_severity"] == "alarm"


def test_what_is_no_receiver_is_refused_with_a_remedy(logged_in: Shell) -> None:
    for receiver, remedy in (
        ("syslog+quic://x", "syslog+udp://HOST:PORT"),
        ("syslog+udp://x:99999", "syslog+udp://HOST:PORT"),
        ("http://siem.example/", "https://"),
        ("https://siem.example/", "16 characters"),
    ):
        ended = logged_in("event-output", "add", receiver)
        assert ended.code == 2
        assert remedy in ended.err
    assert logged_in("event-output", "delete", "nobody", "--yes").code == 2
