"""`cairn-appliance reset-password`: lets someone in again whom nobody else can let in.

Whoever may read the data directory has the keys of the whole cluster anyway; this is what they
can do with it in the open: a user gets another password, and audit and events say so. It needs
a store that takes writes, as every change does: what can't be recorded isn't done.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.bootstrap import Local
from cairn_appliance.cluster.etcd_process import client_tls
from cairn_appliance.domain.access import User
from cairn_appliance.domain.audit import Entry, Kind, Outcome, Who
from cairn_appliance.domain.errors import CairnError, Invalid, StoreFull, Unavailable
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.pki.audit_key import AuditKey
from cairn_appliance.services.audit import Audit
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.events import Journal
from cairn_appliance.services.guesses import Guesses
from cairn_appliance.services.passwords import Passwords
from cairn_appliance.services.second_factor import SecondFactor
from cairn_appliance.services.users import UserChange, Users
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import Full, Store, StoreError

log = logging.getLogger(__name__)

ACTION = "cairn-appliance reset-password"


@dataclass(frozen=True, slots=True)
class Reset:
    """What the one who reset a password is told."""

    user: str
    role: str
    disabled: bool
    password: str  # drawn, to be changed at the first login; empty where one was given
    needs_code: bool  # a code is asked for beside it


async def reset_password(data_dir: Path, user: str, password: str, *, remove_totp: bool) -> Reset:
    """Give a user another password; raise CairnError. Without a name: the only admin there is."""
    local = bootstrap.load(data_dir)
    store = EtcdStore(local.endpoints, client_tls(local))
    try:
        return await Resetting(store, local).reset(user, password, remove_totp=remove_totp)
    except Full as error:
        raise StoreFull("the store is full: nothing was changed") from error
    except StoreError as error:
        raise Unavailable(
            f"no etcd with a quorum answers at {', '.join(local.endpoints)}: {error}",
            "start the appliance here and the others (`cairn-appliance run`), then do it again; "
            "where they are lost, `cairn-appliance recover --data-dir DIR --others-are-lost` first",
        ) from error
    finally:
        await store.close()


class Resetting:
    """Does it on a store."""

    def __init__(self, store: Store, local: Local, clock: Clock = wall_clock) -> None:
        journal = Journal(clock)
        self._by = Actor(ActorKind.SYSTEM, f"root on {local.member}")
        self._journal = journal
        self._users = Users(store, Passwords(), Guesses(store, journal, clock), journal, clock)
        self._second_factor = SecondFactor(store, local.sealer, journal, clock)
        # The appliance itself may be running and write the same chain: each retries after the
        # other. What is on the disk (marks, spool) is its own.
        key = AuditKey(local.sealer)
        self._audit = Audit(store, local.cluster_id, local.member, key, journal, clock)

    async def reset(self, name: str, password: str, *, remove_totp: bool) -> Reset:
        """Record it, do it, record that it was done; raise CairnError, StoreError."""
        user = await self._chosen(name)
        asked = Entry(
            Kind.ASKED,
            self._audit.now_ms(),
            request=secrets.token_hex(8),
            who=Who(kind=self._by.kind, name=self._by.name),
            action=ACTION,
            target=f"/users/{user.name}",
            details={"remove_totp": str(remove_totp).lower()},
        )
        await self._audit.ask(asked)
        outcome = Outcome.UNKNOWN
        try:
            drawn = await self._change(user.name, password, remove_totp)
            outcome = Outcome.DONE
        except CairnError:
            outcome = Outcome.REFUSED
            raise
        finally:
            await self._record_end(asked, outcome)
        _, kept = await self._second_factor.read(user.name)
        return Reset(user.name, user.role, user.disabled, drawn, bool(kept.totp))

    async def _change(self, name: str, password: str, remove_totp: bool) -> str:
        text = f"the password of {name} was reset on an appliance"
        entry = self._journal.entry("password_reset", text, self._by, severity=Severity.WARNING)
        drawn = await self._users.change(name, UserChange(password=password), self._by, also=entry)
        if remove_totp:
            await self._second_factor.remove(name, self._by)
        return drawn

    async def _record_end(self, asked: Entry, outcome: Outcome) -> None:
        ended = replace(asked, kind=Kind.ENDED, at_ms=self._audit.now_ms(), outcome=outcome)
        try:
            await self._audit.record(ended)
        except StoreError as error:  # that it was asked for is recorded
            log.warning("how it ended is not in the audit reason=%s", error)

    async def _chosen(self, name: str) -> User:
        if name:
            return (await self._users.get(name)).user
        admins = [each.user for each in await self._users.list() if each.user.is_admin]
        if len(admins) == 1:
            return admins[0]
        names = ", ".join(each.name for each in admins) or "none"
        raise Invalid(f"whose password? (admins: {names})", "name the user")
