"""What a machine does that was turned away as a copy of a node: it becomes another node.

The appliances decide who is a copy (docs/protocol.md 3). The copy makes an ID and keys of
its own, shows the certificate that it was copied with once more, and waits as a pending
node. An operator may say that it is the node after all: then it keeps its own keys, which
nobody else has, and gets a certificate for that node's ID.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from cairn_agent.control.backoff import Backoff
from cairn_agent.control.replica import Replica
from cairn_agent.control.tls import node_context
from cairn_agent.errors import AgentError, Busy, Refused
from cairn_agent.identity import Identity, Keys, certificate_request, data_public_key
from cairn_agent.protocol.enrolment import CopyRequest, EnrolAnswer, Facts, RenewRequest
from cairn_agent.report import VERSION

log = logging.getLogger(__name__)

_NAME_MAX: Final = 63


async def enrol_copy(identity: Identity, keys: Keys, name: str, facts: Facts) -> Identity:
    """Return the identity of the new node; raise Refused. Asks until somebody answers.

    The same keys are shown each time, so that an answer that was lost makes no second node.
    """
    request = CopyRequest(
        node_id=keys.node_id,
        name=copy_name(identity, keys, name),
        certificate_request=certificate_request(keys),
        data_public_key=data_public_key(keys),
        facts=facts,
        agent_version=VERSION,
    )
    answer = await _ask_anybody(identity, lambda replica: replica.copy(request))
    copy = msgspec.structs.replace(
        identity,
        name=request.name,
        machine=facts,
        copy_of=identity.node_id,
        copy_of_name=identity.name,
    )
    return _enrolled(copy, keys, answer)


async def become(identity: Identity) -> Identity:
    """Return the identity that an operator gave to this copy; raise Refused."""
    keys = msgspec.structs.replace(identity.keys, node_id=identity.copy_of)
    request = RenewRequest(certificate_request(keys))
    answer = await _ask_anybody(identity, lambda replica: replica.become(request))
    original = msgspec.structs.replace(
        identity, name=identity.copy_of_name or identity.name, copy_of="", copy_of_name=""
    )
    return _enrolled(original, keys, answer)


def copy_name(identity: Identity, keys: Keys, name: str) -> str:
    """Return what the new node is called: as the machine, unless that is the original's name."""
    if name and name != identity.name:
        return name
    suffix = f"-copy-{keys.node_id[:8]}"
    return identity.name[: _NAME_MAX - len(suffix)] + suffix


def _enrolled(identity: Identity, keys: Keys, answer: EnrolAnswer) -> Identity:
    return msgspec.structs.replace(
        identity,
        keys=keys,
        state=answer.state,
        cluster_id=answer.cluster_id,
        certificate=answer.certificate,
        ca=answer.ca,
        map_key=answer.map_key,
        appliances=answer.appliances or identity.appliances,
        generation=answer.generation,
        next_map_keys=[],
        former_map_keys=[],
        trust="",
        issuer="",
    )


async def _ask_anybody(
    identity: Identity, question: Callable[[Replica], Awaitable[EnrolAnswer]]
) -> EnrolAnswer:
    """Ask one appliance after the other until one answers; raise Refused."""
    backoff = Backoff(first_s=1.0, max_s=15.0)
    while True:
        at_least_s = 0.0
        addresses = identity.appliances
        for address in random.SystemRandom().sample(addresses, len(addresses)):
            try:
                async with Replica(address, node_context(identity)) as replica:
                    return await question(replica)
            except Refused:
                raise
            except AgentError as error:
                log.warning("no new identity from appliance=%s yet: %s", address, error.cause)
                at_least_s = error.retry_after_s if isinstance(error, Busy) else 0.0
        await asyncio.sleep(backoff.next_s(at_least_s))
