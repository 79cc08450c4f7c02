"""`cairn ca` and `cairn map-key`."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.options import AsJson, Yes, connect, group
from cairn_appliance.cli.output import ago, counted, local
from cairn_appliance.cli.replies import Ca, KeyProgress, MapKey, Reply, Trust

app = group("The cluster's CA, which signs certificates: how it is, and its replacement.")
map_key_app = group("The key that signs netmaps: how it is, and its replacement.")

_CA_PHASES = {
    "steady": "nothing is under way",
    "announced": "the next CA is made known; it issues as soon as all nodes keep it",
    "issuing": "the new CA issues; the former one is retired as soon as nobody needs it",
}
_MAP_KEY_PHASES = {
    "steady": "nothing is under way",
    "announced": "the next key is made known; it signs as soon as all nodes keep it",
}


@app.command("status")
def ca_status(as_json: AsJson = False) -> None:
    """Show how far the replacement of the CA is, and who is behind with what to do."""
    _status("ca", as_json)


@app.command("rotate")
def ca_rotate(yes: Yes = False, as_json: AsJson = False) -> None:
    """Replace the CA: make a new one and make it known; the rest follows by itself."""
    lost = [
        "enrolment tokens and join strings of before end when the former CA is retired",
        "backups of before bring a cluster back that nodes don't believe; one is made after it",
    ]
    output.confirm("Replace the cluster's CA?", lost, yes=yes)
    _change("ca", "rotate", as_json)


@app.command("issue")
def ca_issue(yes: Yes = False, as_json: AsJson = False) -> None:
    """Let the new CA issue now, although nodes are behind; they find their way later."""
    _confirm("Let the new CA issue now?", [], yes, _behind_in_ca)
    _change("ca", "issue", as_json)


@app.command("retire")
def ca_retire(yes: Yes = False, as_json: AsJson = False) -> None:
    """Retire the former CA now, although nodes are behind; they renew when they come back."""
    lost = ["join strings that were made under it"]
    _confirm("Retire the former CA now?", lost, yes, lambda trust: [
        *_behind_in_ca(trust),
        f"{counted(len(trust.ca.old_tokens), 'enrolment token')} made under it",
    ])  # fmt: skip
    _change("ca", "retire", as_json)


@map_key_app.command("status")
def map_key_status(as_json: AsJson = False) -> None:
    """Show how far the replacement of the map key is, and who is behind with what to do."""
    _status("map-key", as_json)


@map_key_app.command("rotate")
def map_key_rotate(yes: Yes = False, as_json: AsJson = False) -> None:
    """Replace the map key: make a new one and make it known; the rest follows by itself."""
    lost = ["backups of before bring back a key that nodes don't believe; one is made after it"]
    output.confirm("Replace the key that signs netmaps?", lost, yes=yes)
    _change("map-key", "rotate", as_json)


@map_key_app.command("use")
def map_key_use(yes: Yes = False, as_json: AsJson = False) -> None:
    """Sign by the new map key now, although nodes are behind."""
    lost = ["agents that are too old to know of it get no further changes until they are updated"]
    _confirm("Use the new map key now?", lost, yes, lambda trust: _behind(trust.map_key))
    _change("map-key", "use", as_json)


def _confirm(question: str, lost: list[str], yes: bool, more: Callable[[Trust], list[str]]) -> None:
    """Ask, with how many it touches; who is not asked needs no answer of the appliance."""
    if yes:
        return
    with connect() as connection:
        trust = connection.get(path_of("trust"), Trust).value
    output.confirm(question, [*more(trust), *lost], yes=yes)


def _behind_in_ca(trust: Trust) -> list[str]:
    return _behind(trust.ca)


def _behind(progress: KeyProgress) -> list[str]:
    left = progress.nodes - progress.done
    nodes = counted(progress.nodes, "node")
    return [f"{left} of {nodes} are behind: they are left so until they come back"]


def _status(key: str, as_json: bool) -> None:
    with connect() as connection:
        reply = connection.get(path_of("trust"), Trust)
    _tell(key, reply, as_json)


def _change(key: str, step: str, as_json: bool) -> None:
    with connect() as connection:
        reply = connection.post(path_of("trust", key, step), Trust)
    _tell(key, reply, as_json)


def _tell(key: str, reply: Reply[Trust], as_json: bool) -> None:
    if as_json:
        output.print_json(reply.whole)
    elif key == "ca":
        _show_ca(reply.value.ca)
    else:
        _show_map_key(reply.value.map_key)


def _show_ca(ca: Ca) -> None:
    other = {"announced": "next", "issuing": "former"}.get(ca.phase, "")
    pairs = [("fingerprint", ca.fingerprint)]
    if other:
        pairs.append((other, ca.other or ""))
    pairs += [(f"retired {ago(each.at)}", each.fingerprint) for each in ca.retired]
    output.facts("The cluster's CA", pairs)
    _show_progress(ca, _CA_PHASES)
    if ca.old_tokens:
        count = counted(len(ca.old_tokens), "enrolment token")
        ended = "are void" if ca.phase == "steady" else "end when it is retired"
        output.say(
            Text(f"{count} made under the former CA: they {ended}.", style=output.WARN),
            f"  what to do: make new ones (`cairn token create`): {', '.join(ca.old_tokens)}",
        )


def _show_map_key(key: MapKey) -> None:
    pairs = [("public key", key.public_key)]
    if key.next:
        pairs.append(("next", key.next))
    output.facts("The key that signs netmaps", pairs)
    _show_progress(key, _MAP_KEY_PHASES)


def _show_progress(progress: KeyProgress, phases: dict[str, str]) -> None:
    told = phases.get(progress.phase, progress.phase)
    since = f", since {ago(progress.since)}" if progress.since else ""
    output.say(f"Phase        {progress.phase}{since}: {told}")
    output.say(f"Nodes        {progress.done} of {progress.nodes} are up to it")
    if progress.goes_on_at and progress.phase != "steady":
        output.say(f"Goes on      without those that are away at {local(progress.goes_on_at)}")
    for each in progress.behind:
        style = output.DIM if each.away else output.WARN
        kind = "node" if each.node else "appliance"
        cause = f"{kind} {output.clean(each.name)}: {output.clean(each.cause)}"
        output.say(Text(cause, style=style), f"  what to do: {output.clean(each.remedy)}")
    left = progress.nodes - progress.done - sum(bool(each.node) for each in progress.behind)
    if left > 0:
        output.say(f"and {left} more")
