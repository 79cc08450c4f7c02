"""What a machine says of itself, by files as the kernel and cloud-init write them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import msgspec
import pytest
from cairn_agent.host import machine
from cairn_agent.host.network import Network
from cairn_appliance.domain import identity


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    names = ("dmi", "dmi-of-root", "machine-id", "cloud", "asset-tag")
    files = {name: tmp_path / name for name in names}
    monkeypatch.setattr(machine, "_DMI_UUIDS", (files["dmi"], files["dmi-of-root"]))
    monkeypatch.setattr(machine, "_MACHINE_ID", files["machine-id"])
    monkeypatch.setattr(machine, "_CLOUD_IDS", (files["cloud"], files["asset-tag"]))
    return files


def test_an_instance_id_is_what_the_appliances_make_of_the_facts(files: dict[str, Path]) -> None:
    """`doctor` shows what a token for some machines only has to name; whatever is known."""
    known = {"dmi": "4C4C4544-0042\n", "machine-id": "3d1219c7\n", "asset-tag": "i-0abc\n"}
    for there in product((False, True), repeat=len(known)):
        for (name, text), is_there in zip(known.items(), there, strict=True):
            files[name].write_text(text if is_there else "")
        facts = msgspec.structs.asdict(machine.machine_facts(Network()))
        assert machine.instance_id() == identity.Facts(**facts).instance_id
    assert machine.instance_id() == "i-0abc"
    files["asset-tag"].write_text("No Asset Tag\n")
    assert machine.instance_id() == "4c4c4544-0042"
    files["dmi"].unlink()
    assert machine.instance_id() == "3d1219c7"
    files["machine-id"].unlink()
    assert machine.instance_id() == ""


def test_where_cloud_init_finds_no_cloud_its_word_for_that_names_no_machine(
    files: dict[str, Path],
) -> None:
    """It is the same everywhere."""
    files["machine-id"].write_text("3d1219c7\n")
    files["cloud"].write_text("iid-datasource-none\n")
    assert machine.instance_id() == "3d1219c7"
    files["cloud"].write_text("i-0abc\n")
    assert machine.instance_id() == "i-0abc"
