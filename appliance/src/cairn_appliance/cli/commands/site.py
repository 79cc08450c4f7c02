"""`cairn site`."""

from __future__ import annotations

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.options import AsJson, connect, group
from cairn_appliance.cli.replies import Site

app = group("Sites: where nodes are. A token names the site of its nodes.")


@app.command("list")
def list_sites(as_json: AsJson = False) -> None:
    """List the sites and their nodes."""
    with connect() as connection:
        replies = list(connection.pages(path_of("sites"), Site))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    rows = (
        (each.value.name, str(each.value.nodes), str(each.value.nodes_connected))
        for each in replies
    )
    empty = "No node names a site yet: cairn token create --site NAME"
    output.table(("NAME", "NODES", "CONNECTED"), rows, fold=("NAME",), empty=empty)
