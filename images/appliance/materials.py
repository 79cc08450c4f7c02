"""The image's list of materials, in CycloneDX 1.6: what is in it, by name, version and purl.

Read from what the image is made of: dpkg's status, the wheels' metadata, what Go's linker wrote
into etcd, the console's lock file, and the agent's packages with their own list. Nothing in it
says when or where it was built: the list of two builds of one commit is the same.
"""

from __future__ import annotations

import email.parser
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from images.building import output

_SPACE = uuid.UUID("3b0f4d52-2f0c-4b0e-9d0e-5f8f6a1f7c12")
_GO_MODULE = re.compile(r"\t(?:mod|dep)\t(\S+)\t(v\S+)")
_CRATE = re.compile(r"(\S+) v(\S+)(?: \(proc-macro\))?")


@dataclass(frozen=True, order=True, slots=True)
class Part:
    """One thing that somebody made and gave a version."""

    purl: str
    name: str
    version: str
    about: tuple[tuple[str, str], ...] = field(default=())


def listed(version: str, when: int, parts: Iterable[Part]) -> str:
    """Return the document; `when` is the commit's time, in seconds."""
    name = f"cairn-appliance {version}"
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, f'{name} {when}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "operating-system",
                "bom-ref": "cairn-appliance",
                "name": "cairn-appliance",
                "version": version,
            },
        },
        "components": [_component(part) for part in sorted(set(parts))],
    }
    return json.dumps(document, indent=1) + "\n"


def _component(part: Part) -> dict[str, object]:
    made: dict[str, object] = {
        "type": "library",
        "bom-ref": part.purl,
        "name": part.name,
        "version": part.version,
        "purl": part.purl,
    }
    if part.about:
        made["properties"] = [{"name": f"cairn:{name}", "value": it} for name, it in part.about]
    return made


def debian(status: str, release: str) -> Iterator[Part]:
    """Yield the packages of dpkg's status file."""
    for paragraph in status.split("\n\n"):
        if "\nStatus: install ok installed\n" not in f"\n{paragraph}\n":
            continue
        fields = email.parser.HeaderParser().parsestr(paragraph)
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{_quoted(name)}@{_quoted(version)}"
        purl += f"?arch={fields['Architecture']}&distro=debian-{release}"
        about = (("source", fields["Source"]),) if fields["Source"] else ()
        yield Part(purl, name, version, about)


def python(lib: Path) -> Iterator[Part]:
    """Yield the distributions that are installed in a directory; not our own two."""
    for metadata in sorted(lib.glob("*.dist-info/METADATA")):
        fields = email.parser.HeaderParser().parsestr(metadata.read_text("utf-8"))
        if not fields["Name"].startswith("cairn-"):
            yield pypi(fields["Name"], fields["Version"])


def pypi(name: str, version: str) -> Part:
    """Return a distribution of PyPI's."""
    known = re.sub(r"[-_.]+", "-", name).lower()
    return Part(f"pkg:pypi/{_quoted(known)}@{_quoted(version)}", known, version)


def go(program: Path) -> Iterator[Part]:
    """Yield the modules that Go's linker wrote into a program, and the Go that made it."""
    told = output("go", "version", "-m", str(program))
    made_by = re.search(r": go(\S+)", told)
    if made_by is not None:
        yield Part(f"pkg:golang/stdlib@{_quoted(made_by[1])}", "stdlib", made_by[1])
    for name, version in _GO_MODULE.findall(told):
        path = "/".join(_quoted(each) for each in name.split("/"))
        yield Part(f"pkg:golang/{path}@{_quoted(version)}", name, version)


def npm(lock: Path) -> Iterator[Part]:
    """Yield what the console's lock file has beside what only builds and tests it."""
    for place, about in json.loads(lock.read_text())["packages"].items():
        name = place.rpartition("node_modules/")[2]
        if name and not about.get("dev") and not about.get("link"):
            path = "/".join(_quoted(each) for each in name.split("/"))
            yield Part(
                f"pkg:npm/{path}@{_quoted(about['version'])}", name, about["version"], _IN_CONSOLE
            )


def crates(manifest: Path) -> Iterator[Part]:
    """Yield the crates that are linked into the data plane; not our own."""
    told = output(
        *("cargo", "tree", "--locked", "--manifest-path", str(manifest), "-p", "cairn-dataplane"),
        *("--edges", "normal", "--prefix", "none", "--format", "{p}"),
    )
    for line in told.splitlines():
        found = _CRATE.fullmatch(line.removesuffix(" (*)"))
        if found is not None:  # ours say where they lie
            purl = f"pkg:cargo/{_quoted(found[1])}@{_quoted(found[2])}"
            yield Part(purl, found[1], found[2], _IN_AGENT)


def agent(bundled: str) -> Iterator[Part]:
    """Yield what the agent's packages bring along, by their own list (images/agent/build.py)."""
    of_debian = True
    for line in bundled.splitlines()[1:]:
        if line == "and of PyPI:":
            of_debian = False
        elif of_debian:
            name, version = line.split()[:2]
            purl = f"pkg:deb/debian/{_quoted(name)}@{_quoted(version)}?arch=amd64&distro=debian-12"
            yield Part(purl, name, version, _IN_AGENT)
        elif line:
            name, version = line.split("==")
            known = pypi(name, version)
            yield Part(known.purl, known.name, known.version)


_IN_AGENT = (("in", "the agent's packages"),)
_IN_CONSOLE = (("in", "the console"),)


def _quoted(text: str) -> str:
    return quote(text, safe="")
