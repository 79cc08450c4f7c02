"""Which member of etcd is spoken to when members come and go."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import grpc.aio
import pytest
from cairn_appliance.store.connection import (
    Caller,
    Endpoints,
    LeaderChanged,
    NotConnected,
    meaning,
)
from cairn_appliance.store.port import Unavailable


async def test_the_one_in_use_stays_in_use_when_others_come_and_go() -> None:
    endpoints = Endpoints(["a:1", "b:1"], None)
    endpoints.mark_bad("a:1")
    assert endpoints.pick() == "b:1"

    endpoints.replace(["a:1", "c:1", "b:1"])
    assert endpoints.pick() == "b:1"

    endpoints.replace(["c:1", "a:1"])
    assert endpoints.pick() == "c:1"


async def test_one_that_failed_of_late_is_still_known_to_have_failed() -> None:
    endpoints = Endpoints(["a:1"], None)
    endpoints.mark_bad("a:1")
    endpoints.replace(["a:1", "b:1"])
    assert endpoints.pick() == "b:1"
    endpoints.mark_bad("b:1")
    assert endpoints.pick() == "a:1", "all are bad: the one that failed first has had its rest"


async def test_home_is_used_again_once_it_is_well_and_left_again_when_it_fails() -> None:
    endpoints = Endpoints(["home:1", "b:1"], None)
    endpoints.mark_bad("home:1")
    assert endpoints.pick() == "b:1"
    assert endpoints.is_away and not endpoints.is_to_leave("b:1"), "nobody said that home is well"

    endpoints.go_home()
    assert endpoints.is_to_leave("b:1") and not endpoints.is_to_leave("home:1")
    assert endpoints.pick() == "home:1" and not endpoints.is_away

    endpoints.mark_bad("home:1")
    assert endpoints.pick() == "b:1" and not endpoints.is_to_leave("b:1")


def test_there_is_always_one() -> None:
    endpoints = Endpoints(["a:1"], None)
    with pytest.raises(ValueError, match="at least one"):
        endpoints.replace([])


def test_what_a_learner_can_t_do_did_not_happen() -> None:
    def failed(code: grpc.StatusCode, text: str) -> grpc.aio.AioRpcError:
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), text)

    learner = failed(
        grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner"
    )
    other = failed(grpc.StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster")
    assert isinstance(meaning(learner), NotConnected)
    assert type(meaning(other)) is Unavailable


def test_that_another_leads_is_told_apart() -> None:
    """Whoever says so is well, and the others are no better."""
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(),
        "etcdserver: leader changed",
    )
    assert type(meaning(error)) is LeaderChanged


async def test_a_write_that_nobody_answers_says_nothing_of_a_leader() -> None:
    """The member may hang: it is to be left, as it is not where another leads."""
    caller = Caller(Endpoints(["a:1"], None), Counter())
    with pytest.raises(Unavailable, match="no answer within") as raised:
        await caller._while_it_leads(asyncio.Event().wait(), 0.05)
    assert not isinstance(raised.value, LeaderChanged)


async def test_a_write_on_its_way_to_a_dead_leader_ends_when_another_leads() -> None:
    caller = Caller(Endpoints(["a:1"], None), Counter())
    caller._note_term(7)
    lost = asyncio.create_task(caller._while_it_leads(asyncio.Event().wait(), 60.0))
    quick: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    kept = asyncio.create_task(caller._while_it_leads(quick, 60.0))
    await asyncio.sleep(0)

    caller._note_term(7)
    await asyncio.sleep(0.05)
    assert not lost.done(), "the same leader still leads"
    caller._note_term(8)
    quick.set_result("written")

    async with asyncio.timeout(5):
        with pytest.raises(LeaderChanged):
            await lost
        assert await kept == "written"


async def test_a_home_that_is_slow_is_left_while_there_is_a_better_one() -> None:
    endpoints = Endpoints(["home:1", "b:1"], None)
    assert not endpoints.is_to_leave("home:1")

    endpoints.avoid_home()

    assert endpoints.is_to_leave("home:1")
    assert endpoints.pick() == "b:1" and not endpoints.is_to_leave("b:1")
    endpoints.mark_bad("b:1")
    assert not endpoints.is_to_leave("home:1"), "a slow one is better than none"
    endpoints.go_home()
    assert endpoints.pick() == "home:1" and not endpoints.is_to_leave("home:1")


async def test_the_only_one_is_never_left() -> None:
    endpoints = Endpoints(["home:1"], None)
    endpoints.avoid_home()
    assert endpoints.pick() == "home:1" and not endpoints.is_to_leave("home:1")
