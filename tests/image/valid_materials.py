"""Reads a list of materials as others do: by CycloneDX's own schema and purl's own parser.

Run with the packages of requirements.txt, which nothing else here needs; prints what is wrong.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL


def main() -> None:
    text = Path(sys.argv[1]).read_text()
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        print(problem)
    for component in json.loads(text)["components"]:
        known = PackageURL.from_string(component["purl"])
        name = "/".join(each for each in (known.namespace, known.name) if each)
        if known.type != "deb" and name != component["name"]:
            print(f"{component['purl']} is {name}, not {component['name']}")
        if known.version != component["version"]:
            print(f"{component['purl']} is of {known.version}, not {component['version']}")


if __name__ == "__main__":
    main()
