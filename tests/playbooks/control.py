"""A control host: Ansible in an environment of its own, and an SSH key that the hosts know."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import Host
from tests.packages.guest import ROOT, Guest

TOOL = ROOT / "build/tools/ansible"
COLLECTIONS = ROOT / "build/ansible/collections"
_OF_PLAYS = ("cairn_hosts", "cairn_serial")  # no host has these: they are for the command line
_SOCKETS = "/run/ansible"
_HERE = Path(__file__).resolve().parent
_RECAP = re.compile(r"(?m)^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)")


@dataclass(frozen=True)
class Counted:
    """The line of a host in the recap."""

    ok: int
    changed: int
    unreachable: int
    failed: int


@dataclass
class Played:
    """What a run of a playbook printed, and its recap."""

    status: int
    text: str
    hosts: dict[str, Counted] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """Return how many tasks of all hosts changed something."""
        return sum(host.changed for host in self.hosts.values())


class Control:
    """Runs playbooks of the installed collection from a host of the lab."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.directory = host.directory / "ansible"
        self.directory.mkdir()
        self._key = self.directory / "key"
        host.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._key)])
        self._hosts: dict[str, dict[str, object]] = {}
        self._known: list[str] = []
        self.secrets: list[str] = []  # what no output may have

    def add(self, guest: Guest, host: Host, *, user: str = "root") -> None:
        """Let a host be managed: its key is known here, the control host's key there."""
        public = self._key.with_suffix(".pub").read_text().strip()
        home = "/root" if user == "root" else f"/home/{user}"
        if user != "root":
            guest.run(f"echo '127.0.1.1 {host.name}' >>/etc/hosts")  # sudo asks for its own name
            guest.run(f"useradd --create-home --shell /bin/sh {user}")
            guest.run(f"echo '{user} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{user}")
        guest.run(
            f"mkdir -p -m 0700 {home}/.ssh && echo '{public}' >{home}/.ssh/authorized_keys && "
            f"chown -R {user} {home}/.ssh"
        )
        shown = (guest.place / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        self._known.append(f"{host.v4} {shown[0]} {shown[1]}\n")
        self._hosts[host.name] = {
            "ansible_host": host.v4,
            "ansible_user": user,
            "ansible_become": user != "root",
        }

    def play(self, playbook: str, *options: str, check: bool = True, **variables: object) -> Played:
        """Run a playbook of the collection, or a file beside this one, on all hosts; every output
        is looked at for secrets."""
        of_plays = {name: variables.pop(name) for name in _OF_PLAYS if name in variables}
        inventory = self.inventory_file(variables)
        is_file = playbook.endswith(".yml")
        name = str(_HERE / playbook) if is_file else f"cairn.overlay.{playbook}"
        command = [str(TOOL / "bin/ansible-playbook"), name]
        command += ["-e", json.dumps(of_plays)]
        begun = time.monotonic()
        done = self.host.run(
            [*command, "-i", str(inventory), *options],
            check=False,
            within_s=300,
            env=self.environment(),
        )
        text = done.stdout + done.stderr
        took_s = time.monotonic() - begun
        (self.directory / f"{playbook}.log").write_text(text)
        self.look_for_secrets(text, playbook)
        assert not check or done.returncode == 0, text
        hosts = {name: Counted(*map(int, rest)) for name, *rest in _RECAP.findall(text)}
        played = Played(done.returncode, text, hosts)
        how = " ".join(option for option in options if option.startswith("--"))
        print(f"{playbook} {how}: {took_s:.1f} s, {len(hosts)} hosts, {played.changed} changed")
        return played

    def look_for_secrets(self, text: str, name: str) -> None:
        """Refuse an output that has a secret in it; `name` says of what it is."""
        for secret in self.secrets:
            assert secret not in text, f"a secret is in the output of {name}"
        assert "cairn1." not in text, f"a join token is in the output of {name}"

    def inventory(self, text: str) -> dict[str, Any]:
        """Return what `ansible-inventory` makes of an inventory file of ours."""
        path = self.directory / "test.cairn.yml"
        path.write_text(text)
        command = [str(TOOL / "bin/ansible-inventory"), "-i", str(path), "--list"]
        done = self.host.run(command, env=self.environment(), within_s=60)
        # What comes from an appliance is marked: it is never a template.
        plain = lambda value: value.get("__ansible_unsafe", value)  # noqa: E731
        found: dict[str, Any] = json.loads(done.stdout, object_hook=plain)
        return found

    def environment(self) -> dict[str, str]:
        """Return what Ansible is run with: nothing of the user's own."""
        return {
            "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.directory / "home"),
            "ANSIBLE_LOG_PATH": str(self.directory / "ansible.log"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
            "PATH": f"{TOOL}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
        }

    def connection(self) -> dict[str, str]:
        """Return the same as the configuration says, for what brings one of its own."""
        return {
            "ANSIBLE_PRIVATE_KEY_FILE": str(self._key),
            "ANSIBLE_SSH_ARGS": self._ssh_args(),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": _SOCKETS,
        }

    def inventory_file(
        self, variables: dict[str, object], groups: tuple[str, ...] = ("cairn",)
    ) -> Path:
        """Write the inventory, with all hosts in each group, and what it needs; return its path."""
        inventory = {name: {"hosts": self._hosts, "vars": variables} for name in groups}
        path = self.directory / "inventory.json"
        path.write_text(json.dumps({"all": {"children": inventory}}))
        (self.directory / "known_hosts").write_text("".join(self._known))
        (self.directory / "ansible.cfg").write_text(
            "[defaults]\nnocolor = true\nhost_key_checking = true\nforks = 10\n"
            f"private_key_file = {self._key}\n"
            f"[ssh_connection]\ncontrol_path_dir = {_SOCKETS}\nssh_args = {self._ssh_args()}\n"
        )
        return path

    def _ssh_args(self) -> str:
        return (
            "-o ControlMaster=auto -o ControlPersist=60s -o StrictHostKeyChecking=yes "
            f"-o UserKnownHostsFile={self.directory / 'known_hosts'}"
        )


def api_token(path: Path, token: str) -> Path:
    """Put an API token where the collection expects it."""
    path.write_text(token + "\n")
    path.chmod(0o600)
    return path
