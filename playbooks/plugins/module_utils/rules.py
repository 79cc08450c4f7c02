"""What the plugins decide, without Ansible and without I/O: rules that tests call directly."""

from __future__ import annotations

import hashlib
import json
import re
import ssl

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?")
_LISTED = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+~-]{0,127})")
_SUFFIX = {"deb": ".deb", "rpm": ".rpm", "tar.gz": ".tar.gz"}


class Told(Exception):
    """What a person is told: a cause, and what to do about it."""

    def __init__(self, cause: str, remedy: str = "", code: str = "") -> None:
        super().__init__(sentence(cause, remedy))
        self.cause = cause
        self.remedy = remedy
        self.code = code


def sentence(cause: str, remedy: str) -> str:
    """Return cause and remedy as every message of the collection has them."""
    return f"{cause}; what to do: {remedy}" if remedy else cause


def said_by_command(text: str) -> str:
    """Return as one sentence what a command of ours says over several lines when it fails."""
    cause, _, remedy = text.partition("what to do: ")
    cause, remedy = (" ".join(part.split()) for part in (cause, remedy))
    return sentence(cause.removeprefix("error: "), remedy)


def pin_of(text: str) -> str:
    """Return a fingerprint as lower-case hex digits, however it was written."""
    return text.lower().removeprefix("sha256:").replace(":", "").strip()


def certificate_with(pin: str, text: str) -> str:
    """Return the PEM certificate with this SHA-256 out of those that an appliance claims."""
    for pem in _CERTIFICATE.findall(text):
        if hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip())).hexdigest() == pin_of(pin):
            return str(pem)
    raise Told(
        "the appliance's CA has another fingerprint than cairn_fingerprint: nothing was sent",
        "compare with `cairn ca status`; if yours is right, someone is in between",
    )


def problem_of(status: int, body: str) -> Told:
    """Return what an answer with an error says."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not problem.get("code"):
        return Told(
            f"what answers there is no Cairn appliance (HTTP {status})",
            "check cairn_url; the operations API is on TCP 8443",
        )
    cause = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
    return Told(cause.rstrip("."), str(problem.get("remedy") or ""), str(problem["code"]))


def listed(sums: str) -> dict[str, str]:
    """Return SHA-256 by name of what SHA256SUMS lists."""
    found = (_LISTED.fullmatch(line) for line in sums.splitlines())
    return {match[2]: match[1] for match in found if match}


def package_of(kind: str, sums: str) -> str:
    """Return the name of the agent's package of a kind: deb, rpm or tar.gz."""
    for name in listed(sums):
        if name.startswith("cairn-agent") and name.endswith(_SUFFIX[kind]):
            return name
    raise Told(f"there is no {kind} of the agent among the packages", "run `make packages`")


def changes(wanted: dict, current: dict) -> dict:
    """Return what of `current` has to change so that it is as wanted; None in `wanted`: as it is.

    Lists are compared as sets: an appliance may give them in an order of its own.
    """
    found: dict = {}
    for name, value in wanted.items():
        if value is None:
            continue
        now = current.get(name)
        if isinstance(value, dict):
            inner = changes(value, now or {})
            if inner:
                found[name] = inner
        elif isinstance(value, list):
            if sorted(map(str, value)) != sorted(map(str, now or [])):
                found[name] = value
        elif value != now:
            found[name] = value
    return found


def findings(
    checks: list, status: dict, vsubnets: list, segments: list, *, may_wait: bool
) -> tuple[list, list]:
    """Return (failures, warnings) of a node as (cause, remedy) pairs.

    A peer that doesn't answer is the peer's fault as long as another one does: a roll-out
    doesn't stop here for a machine that is broken elsewhere.
    """
    failures, warnings = [], []
    is_reached = any(peer.get("session") == "up" for peer in status.get("peers", []))
    for check in checks:
        said = (f"{check['name']}: {check['found']}", check.get("remedy", ""))
        if check["verdict"] == "failed" and not (
            check["name"].startswith("UDP to ") and is_reached
        ):
            failures.append(said)
        elif check["verdict"] != "ok":
            warnings.append(said)
    if status.get("state") == "pending":
        said = ("the node waits for approval", f"cairn node approve {status.get('name', '')}")
        (warnings if may_wait else failures).append(said)
        return failures, warnings
    here = {vsubnet["name"] for vsubnet in status.get("vsubnets", [])}
    for name in sorted(set(vsubnets) - here):
        remedy = f"cairn member create {name} {status.get('name', '')}"
        failures.append((f"the node is not in vSubnet {name}", remedy))
    gateways = {gateway["name"]: gateway for gateway in status.get("gateways", [])}
    for name in segments:
        gateway = gateways.get(name, {"state": "no gateway"})
        if gateway["state"] not in ("forwarding", "standby"):
            cause, _, remedy = gateway.get("why", "").partition("; ")
            failures.append((f"segment {name}: {gateway['state']} {cause}".rstrip(), remedy))
    return failures, warnings


def standing(status: dict) -> str:
    """Return what a node is to the LANs around it: forwarding, standby, or host for no gateway."""
    gateways = status.get("gateways") or []
    if any(gateway.get("state") == "forwarding" for gateway in gateways):
        return "forwarding"
    return "standby" if gateways else "host"


def shown(current: dict | None, wanted: dict, differs: dict | None = None) -> str:
    """Return an object as a diff shows it: its name, and the fields that anybody asked about."""
    if current is None:
        return ""
    fields = {name: current.get(name) for name, value in wanted.items() if value is not None}
    for name, value in (differs or {}).items():
        inner = isinstance(value, dict)
        fields[name] = {**(fields.get(name) or {}), **value} if inner else value
    return json.dumps({"name": current.get("name", ""), **fields}, indent=2, sort_keys=True) + "\n"


def host_vars(node: dict, address: str) -> dict:
    """Return the variables of a node in an inventory; `address` says by which one it is reached:
    its first endpoint, the address that the appliance sees, or none."""
    found = {
        "cairn_node_id": node["id"],
        "cairn_node_state": node["state"],
        "cairn_node_site": node["site"],
        "cairn_node_labels": node["labels"],
        "cairn_node_version": node["agent_version"],
        "cairn_node_is_connected": bool((node["link"] or {}).get("connected")),
        "cairn_node_vsubnets": [each["vsubnet"]["name"] for each in node["members"]],
        "cairn_node_ips": [ip for each in node["members"] for ip in each["ips"]],
    }
    where = ""
    if address == "endpoint" and node["endpoints"]:
        where = node["endpoints"][0].rpartition(":")[0].strip("[]")
    elif address in ("endpoint", "seen"):
        where = node["seen_address"]
    return {**found, "ansible_host": where} if where else found


def host_groups(node: dict) -> list:
    """Return the groups of a node in an inventory, of which all are in `cairn`."""
    groups = [f"cairn_site_{node['site']}"] if node["site"] else []
    groups += [f"cairn_vsubnet_{each['vsubnet']['name']}" for each in node["members"]]
    groups += [f"cairn_label_{name}_{value}" for name, value in sorted(node["labels"].items())]
    if any(each["role"] == "gateway" for each in node["members"]):
        groups.append("cairn_gateways")
    return groups


def host_names(nodes: list) -> list:
    """Return the names of nodes in an inventory, in their order: an ID is added where several
    nodes have one name."""
    names = [node["name"] for node in nodes]
    return [
        name if names.count(name) == 1 else f"{name}-{node['id'][:8]}"
        for name, node in zip(names, nodes, strict=True)
    ]
