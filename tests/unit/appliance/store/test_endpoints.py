"""Which member of etcd is spoken to when members come and go."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from cairn_appliance.store.connection import Endpoints, NotConnected, meaning
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
