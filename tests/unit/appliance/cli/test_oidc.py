"""`cairn oidc`, against a real HTTPS server of this process and a real identity provider."""

from __future__ import annotations

import json
from pathlib import Path

from tests.identity_provider import CLIENT, SECRET, identity_provider
from tests.unit.appliance.cli.conftest import Live, Shell


def test_the_provider_is_set_shown_tried_changed_and_forgotten(
    live: Live, logged_in: Shell, tmp_path: Path
) -> None:
    assert "cairn oidc set --issuer" in logged_in.ok("oidc", "show")
    assert logged_in("oidc", "set", "--name", "office").code == 2
    secret, ca = tmp_path / "secret", tmp_path / "ca.pem"
    secret.write_text(f"{SECRET}\n")
    with identity_provider(tmp_path) as provider:
        ca.write_text(provider.ca)
        options = ["--client-id", CLIENT, "--secret-file", str(secret), "--ca", str(ca)]
        rules = ["--role", "cairn-admins=admin", "--role", "a=b=viewer", "--name", "office"]
        shown = logged_in.ok("oidc", "set", "--issuer", provider.issuer, *options, *rules)
        assert "a=b is viewer" in shown
        assert f"{live.url}/oidc" in shown
        assert SECRET not in shown
        assert "answers, with 1 key" in logged_in.ok("oidc", "test")
        told = json.loads(logged_in.ok("oidc", "test", "--json"))
        assert (told["ok"], told["keys"]) == (True, 1)
    gone = logged_in("oidc", "test")
    assert gone.code == 3
    assert "can't be asked" in gone.err

    changed = json.loads(logged_in.ok("oidc", "set", "--default-role", "viewer", "--json"))
    assert changed["roles"] == {"cairn-admins": "admin", "a=b": "viewer"}
    assert (changed["default_role"], changed["has_secret"]) == ("viewer", True)
    changed = json.loads(
        logged_in.ok("oidc", "set", "--default-role", "none", "--role", "", "--json")
    )
    assert (changed["default_role"], changed["roles"]) == (None, {})
    assert logged_in("oidc", "set", "--role", "admins=king").code == 2
    assert logged_in("oidc", "set", "--issuer", "https://other.example").code == 2

    asked = logged_in("oidc", "clear")
    assert asked.code == 2
    assert "can't log in any more" in asked.err
    assert json.loads(logged_in.ok("oidc", "clear", "--yes", "--json")) == {
        "cleared": provider.issuer
    }
    assert logged_in("oidc", "clear", "--yes").code == 2
