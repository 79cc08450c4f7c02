"""What the kernel says of its clock: read as the C library lays it out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cairn_appliance.cluster.kernel_clock import is_synchronised

_SHIM = Path(__file__).parents[3] / "lab" / "max_error.c"
_LOOK = "from cairn_appliance.cluster.kernel_clock import is_synchronised; print(is_synchronised())"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "max_error.so"
    command = ["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(_SHIM)]
    subprocess.run(command, check=True, timeout=60)
    return library


@pytest.mark.parametrize(
    ("max_error_us", "told"),
    [("0", "True"), ("15999999", "True"), ("16000000", "False"), ("", "None")],
)
def test_a_clock_is_kept_while_its_error_is_known(shim: Path, max_error_us: str, told: str) -> None:
    """Also where STA_UNSYNC is set, as chrony does without rtcsync."""
    environment = {"LD_PRELOAD": str(shim), "PATH": "/usr/bin:/bin"}
    if max_error_us:
        environment["MAX_ERROR_US"] = max_error_us
    command = [sys.executable, "-c", _LOOK]
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == told


def test_the_kernel_here_says_one_or_the_other() -> None:
    assert is_synchronised() in (True, False)
