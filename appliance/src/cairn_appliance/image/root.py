"""What root does of what the menu asks for; each request is checked again here."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

import msgspec

from cairn_appliance.domain.errors import CairnError, Refused
from cairn_appliance.image import machine, places, request, seed, state, support, trial, wipe
from cairn_appliance.image.request import Answer, Request
from cairn_appliance.image.seed import Seed

log = logging.getLogger(__name__)

_ASKED_WITHIN_S = 10.0
_WITHIN_S = 60.0
_EARLIEST = 1_767_225_600  # 2026-01-01: no such appliance is older
_LATEST = 4_102_444_800  # 2100-01-01
_RTC = Path("/dev/rtc0")
_RTC_SET_TIME = 0x4024_700A  # linux/rtc.h


def answer_one(connection: socket.socket) -> None:
    """Read one request from the menu, do it, and say how it went."""
    connection.settimeout(_ASKED_WITHIN_S)
    try:
        asked = request.decode(request.read_line(connection))
        log.info("asked for at the console: %s", type(asked).__name__)
        answer = Answer(text=do(asked))
    except CairnError as error:
        log.warning("not done: %s", error.cause)
        answer = Answer(cause=error.cause, remedy=error.remedy)
    except (OSError, subprocess.SubprocessError) as error:
        log.exception("not done")
        answer = Answer(cause=str(error), remedy=request.NotDone.remedy)
    connection.sendall(msgspec.json.encode(answer) + b"\n")


def do(asked: Request) -> str:
    """Do what is asked; return what to say. Raise CairnError."""
    match asked:
        case request.TryNetwork():
            trial.begin(asked.network)
        case request.KeepNetwork():
            trial.keep()
        case request.RevertNetwork():
            trial.revert()
        case request.SetUp():
            _set_up(asked)
        case request.SetTimeServers():
            _set_time_servers(asked)
        case request.SetClock():
            _set_clock(asked.at)
        case request.WriteBundle():
            return support.write()
        case request.Restart():
            _systemctl("reboot")
        case request.PowerOff():
            _systemctl("poweroff")
        case request.FactoryReset():
            _reset(asked.hostname)
    return ""


def _set_up(asked: request.SetUp) -> None:
    """Go the way of a seed: keep it, and let cairn-first-boot.service do the rest."""
    if state.is_set_up():
        raise Refused("this machine is an appliance already", "for another cluster, reset it first")
    found = Seed(1, asked.hostname, machine.kept_system().network, asked.cluster)
    seed.check(found)
    _systemctl("stop", "cairn-first-boot.service", wait=True)  # one that tries in vain
    machine.keep(found)
    socket.sethostname(found.hostname)
    state.tell(None)
    _systemctl("start", "cairn-first-boot.service")


def _set_time_servers(asked: request.SetTimeServers) -> None:
    kept = machine.kept_system()
    network = msgspec.structs.replace(kept.network, ntp=asked.servers)
    seed.check_network(network)
    trial.keep_system(msgspec.structs.replace(kept, network=network))
    machine.render_time(network)
    _systemctl("restart", "systemd-timesyncd.service", wait=True)


def _set_clock(at: int) -> None:
    if places.SYNCHRONISED.exists():
        raise Refused("a time server sets the clock", "name other time servers if it is wrong")
    if not _EARLIEST <= at < _LATEST:
        raise Refused("that is no time of this century's that can be meant", "look at the year")
    time.clock_settime(time.CLOCK_REALTIME, at)
    _set_rtc(at)


def _set_rtc(at: int) -> None:
    """Let the machine's own clock know it too, for the next start; UTC."""
    t = time.gmtime(at)
    fields = (t.tm_sec, t.tm_min, t.tm_hour, t.tm_mday, t.tm_mon - 1, t.tm_year - 1900, 0, 0, 0)
    try:
        file = os.open(_RTC, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(file, _RTC_SET_TIME, struct.pack("9i", *fields))
        finally:
            os.close(file)
    except OSError as error:
        log.warning("the machine's own clock was not set reason=%s", error)


def _reset(hostname: str) -> None:
    if hostname != socket.gethostname():
        raise Refused("that is not the name of this machine", "type the name that is shown")
    wipe.mark()
    _systemctl("reboot")


def _systemctl(*command: str, wait: bool = False) -> None:
    how = [] if wait else ["--no-block"]
    subprocess.run(
        ["systemctl", *how, *command], check=True, timeout=_WITHIN_S, stdin=subprocess.DEVNULL
    )
