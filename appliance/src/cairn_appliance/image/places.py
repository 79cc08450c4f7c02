"""Where things are in the image."""

from __future__ import annotations

from pathlib import Path

USER = "cairn-appliance"
DATA_DIR = Path("/var/lib/cairn/appliance")
STATE_DIR = Path("/var/lib/cairn-image")  # of the machine, not of the cluster; root's
RUN_DIR = Path("/run/cairn-image")  # memory only; readable for the appliance's user

KEPT = STATE_DIR / "system.json"  # hostname and network, rendered at each boot
APPLIED = STATE_DIR / "applied"  # a seed was applied: none is looked at any more
CLUSTER = RUN_DIR / "cluster.json"  # what the seed says of the cluster; has secrets
PROBLEM = RUN_DIR / "problem"  # two lines for the screen: cause and remedy
TRIAL = Path("/run/cairn-network-trial.json")  # a change of the network that may go back; root's
RESET = Path("/var/cairn-reset")  # all beside it is to go at the next start
SYNCHRONISED = Path("/run/systemd/timesync/synchronized")  # there once a server has set the clock

STANDING = STATE_DIR / "standing.json"  # with the slots; root's word, readable for all
INBOX = Path("/var/lib/cairn-update")  # of the appliance's user, below root's directory
WISH = "wish"  # in INBOX: what the appliance asks of root
BUNDLE = "bundle"  # in INBOX: the file of an update
RELEASE_KEY = Path("/usr/lib/cairn-appliance/release.pem")

OPS_PORT = 443
ESP = Path("/efi")
GRUBENV = ESP / "grub" / "grubenv"
COMMAND_LINE = Path("/proc/cmdline")
