"""Prints the description of the operations API, as an appliance answers it."""

from __future__ import annotations

import json
import sys
from typing import Any, cast

from cairn_appliance.api.ops_v1.app import create_app


def main() -> int:
    """Describe the routes: nothing of what stands behind them is asked."""
    nothing = cast(Any, _Nothing())
    description = create_app(nothing, nothing, nothing).openapi()
    json.dump(description, sys.stdout, sort_keys=True)
    return 0


class _Nothing:
    """Stands for services that nobody calls."""

    def __getattr__(self, name: str) -> _Nothing:
        return self


if __name__ == "__main__":
    sys.exit(main())
