"""An update comes from whichever address of its appliance answers, and whole or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import httpx
import pytest
from cairn_appliance.cluster.update_fetch import fetch
from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.domain.update import SHARED_UPDATE

PLACES = ("192.0.2.1:8002", "192.0.2.2:8002", "192.0.2.3:8002")


class CutOff(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"half"
        raise httpx.ReadError("cut off")


class Others:
    """The appliance that has the update, at its addresses: `answers` says what each gives."""

    def __init__(self, *answers: httpx.Response | httpx.HTTPError) -> None:
        self.answers = dict(zip(PLACES, answers, strict=False))
        self.asked: list[str] = []

    async def fetched(self) -> bytes:
        async with httpx.AsyncClient(transport=httpx.MockTransport(self._answer)) as connected:

            async def given() -> httpx.AsyncClient:
                return connected

            client = SimpleNamespace(connected=given)
            pieces = [each async for each in fetch(client, list(self.answers))]  # type: ignore[arg-type]
        return b"".join(pieces)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == SHARED_UPDATE
        place = request.url.netloc.decode()
        self.asked.append(place)
        answer = self.answers[place]
        if isinstance(answer, httpx.HTTPError):
            raise answer
        return answer


async def test_an_address_that_gives_nothing_is_passed_over() -> None:
    unreachable, missing = httpx.ConnectError("no route"), httpx.Response(404)
    others = Others(unreachable, missing, httpx.Response(200, content=b"whole"))
    assert await others.fetched() == b"whole"
    assert others.asked == list(PLACES)


async def test_where_none_gives_it_each_says_why() -> None:
    with pytest.raises(Unavailable, match=r"192.0.2.1.*no route.*192.0.2.2.*404"):
        await Others(httpx.ConnectError("no route"), httpx.Response(404)).fetched()
    with pytest.raises(Unavailable, match="nobody says where"):
        await Others().fetched()


async def test_what_broke_off_is_not_gone_on_with_from_elsewhere() -> None:
    others = Others(httpx.Response(200, stream=CutOff()), httpx.Response(200, content=b"whole"))
    with pytest.raises(Unavailable, match="cut off"):
        await others.fetched()
    assert others.asked == [PLACES[0]]
