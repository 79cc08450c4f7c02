"""What modules have in common that keep one object of the appliance as it is wanted."""

from __future__ import annotations

from collections.abc import Callable

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cairn.overlay.plugins.module_utils.appliance import Appliance
from ansible_collections.cairn.overlay.plugins.module_utils.rules import Told, changes, shown

Work = Callable[[AnsibleModule, Appliance], dict]


def carry_out(module: AnsibleModule, work: Work) -> None:
    """Do the work and end the module: with what it returns, or with cause and remedy."""
    try:
        with Appliance(module.params) as appliance:
            module.exit_json(**work(module, appliance))
    except Told as told:
        module.fail_json(msg=str(told), code=told.code)


def present(
    module: AnsibleModule,
    appliance: Appliance,
    kind: str,
    found: tuple[dict | None, str],
    *,
    wanted: dict,
    once: dict | None = None,
) -> dict:
    """Make or change the named object of a kind; `once` are fields that only creation takes."""
    current, etag = found
    name = module.params["name"]
    differs = changes(wanted, current or {})
    result = {
        "changed": current is None or bool(differs),
        kind: current or {},
        "diff": {
            "before": shown(current, wanted),
            "after": shown({**(current or {}), "name": name}, wanted, differs),
        },
    }
    if not result["changed"] or module.check_mode:
        return result
    if current is None:
        made = appliance.post(f"{kind}s", body={"name": name, **(once or {}), **differs})
    else:
        made = appliance.patch(f"{kind}s", current["id"], body=differs, etag=etag)
    return {**result, kind: made}


def absent(module: AnsibleModule, appliance: Appliance, kind: str, listed: dict) -> dict:
    """Delete the named object of a kind if there is one; `listed` are the fields of the diff."""
    current, etag = appliance.find(f"{kind}s", module.params["name"])
    if current is not None and not module.check_mode:
        appliance.delete(f"{kind}s", current["id"], etag=etag)
    return {
        "changed": current is not None,
        kind: {},
        "diff": {"before": shown(current, listed), "after": shown(None, {})},
    }
