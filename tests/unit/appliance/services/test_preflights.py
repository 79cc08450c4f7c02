"""Pre-flights: the question reaches its node, the answer whoever asked."""

from __future__ import annotations

import pytest
from cairn_agent.protocol import gateway as wire
from cairn_appliance.domain.errors import Clash, Invalid, NotFound, Refused
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services.preflights import GIVEN_UP_AFTER_S, PreflightOrder

from tests.unit.appliance.gateways import Office

ORDER = PreflightOrder("g1", "eth1", 0, "red", 5.0)


async def office_with_link() -> Office:
    office = await Office().open("g1", "g2")
    office.replica.services.presence.connected(office.gateways[0].id)
    return office


async def test_a_question_is_in_the_node_s_document_until_it_is_answered() -> None:
    office = await office_with_link()
    preflights, node = office.replica.services.preflights, office.gateways[0].id
    asked = await preflights.ask(ORDER, SYSTEM)
    await office.look()
    netmaps = office.replica.services.netmaps
    vni = (await office.replica.services.vsubnets.get("red")).value.vni
    (task,) = netmaps.node_document(node).preflights
    assert task == wire.PreflightTask(asked.task, "eth1", 0, vni, 5.0)
    assert netmaps.node_document(office.gateways[1].id).preflights == []
    assert await preflights.get(asked.task) == (asked, None)

    finding = wire.Finding("dhcp_server", "handled", "02:.. answers", "dhcp guard")
    report = wire.PreflightReport(asked.task, True, 5.0, 120, [finding])
    await preflights.take(node, report)
    await preflights.take(node, report)  # the answer was lost, it says so again
    await office.look()
    assert netmaps.node_document(node).preflights == []
    _, result = await preflights.get(asked.task)
    assert result is not None
    assert (result.is_go, result.frames, result.findings[0].guard) == (True, 120, "dhcp guard")


async def test_a_node_answers_its_own_questions_only() -> None:
    office = await office_with_link()
    asked = await office.replica.services.preflights.ask(ORDER, SYSTEM)
    for task in (asked.task, "no-such", "../x"):
        with pytest.raises(Refused):
            report = wire.PreflightReport(task, True, 5.0, 1, [])
            await office.replica.services.preflights.take(office.gateways[1].id, report)


async def test_an_error_is_no_go() -> None:
    office = await office_with_link()
    preflights = office.replica.services.preflights
    asked = await preflights.ask(ORDER, SYSTEM)
    report = wire.PreflightReport(asked.task, True, 0.0, 0, [], error="there is no eth1")
    await preflights.take(office.gateways[0].id, report)
    _, result = await preflights.get(asked.task)
    assert result is not None
    assert (result.is_go, result.error) == (False, "there is no eth1")


async def test_what_nobody_answers_is_given_up_and_forgotten() -> None:
    office = await office_with_link()
    preflights = office.replica.services.preflights
    asked = await preflights.ask(ORDER, SYSTEM)
    office.wait(GIVEN_UP_AFTER_S)
    await preflights.tidy()
    assert (await preflights.get(asked.task))[1] is None
    office.wait(5.0)
    await preflights.tidy()
    _, result = await preflights.get(asked.task)
    assert result is not None
    assert "no answer" in result.error
    office.wait(86_400.0)
    await preflights.tidy()
    with pytest.raises(NotFound):
        await preflights.get(asked.task)


async def test_who_is_away_can_t_be_asked() -> None:
    office = await office_with_link()
    with pytest.raises(Clash) as refused:
        order = PreflightOrder("g2", "eth1", 0, "red")
        await office.replica.services.preflights.ask(order, SYSTEM)
    assert refused.value.code == "node_away"


async def test_a_node_is_not_asked_without_end() -> None:
    office = await office_with_link()
    with pytest.raises(Clash):
        for _ in range(9):
            await office.replica.services.preflights.ask(ORDER, SYSTEM)


@pytest.mark.parametrize(
    "order",
    [
        PreflightOrder("g1", "eth/1", 0, "red"),
        PreflightOrder("g1", "eth1", 5000, "red"),
        PreflightOrder("g1", "eth1", 0, "red", 0.1),
        PreflightOrder("g1", "eth1", 0, "red", 3600.0),
    ],
)
async def test_what_can_t_be_listened_to_is_refused(order: PreflightOrder) -> None:
    office = await office_with_link()
    with pytest.raises(Invalid):
        await office.replica.services.preflights.ask(order, SYSTEM)
