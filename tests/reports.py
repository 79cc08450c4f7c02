"""Where the phases' reports of a test are kept, so that a fixture knows that it failed."""

import pytest

REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()
