"""Writes through the operations API for as long as it runs, and tells how each write ended.

First line of stdin: {"places": ["HOST:PORT", ...], "session": TOKEN, "pause_s": S, "retry_s": S,
"within_s": S}: how long an answer is waited for.
A write makes an enrolment token. Each line of output is a JSON object: when it was sent
(CLOCK_MONOTONIC), how long it took, where, the status, the ID of what was made, how often it
was tried, and what the answer says went wrong. It stays at a place for as long as that works, as
a client of ours does. With `retry_s` a write that fails is repeated for so long, with the same
Idempotency-Key, at the next place.
"""

import http.client
import json
import random
import ssl
import sys
import time
import uuid

_AGAIN_S = 0.2
_NO_ANSWER = 0


class Place:
    """One appliance, with a connection that is kept."""

    def __init__(self, address: str, session: str, within_s: float) -> None:
        self.address = address
        self._session = session
        self._within_s = within_s
        self._connection: http.client.HTTPSConnection | None = None

    def write(self, key: str) -> tuple[int, dict[str, str]]:
        """Make a token; return the status (0: no answer) and the answer."""
        try:
            if self._connection is None:
                context = ssl._create_unverified_context()
                self._connection = http.client.HTTPSConnection(
                    self.address, timeout=self._within_s, context=context
                )
            headers = {
                "Authorization": f"Bearer {self._session}",
                "Content-Type": "application/json",
            }
            if key:
                headers["Idempotency-Key"] = key
            self._connection.request("POST", "/api/v1/tokens", b"{}", headers)
            answer = self._connection.getresponse()
            body = json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return _NO_ANSWER, {}
        return answer.status, body


def worth_repeating(status: int, answer: dict[str, str]) -> bool:
    """Say whether the API says, or its silence means, that the write may be tried again."""
    is_running = answer.get("code") == "request_in_progress"
    return status in (_NO_ANSWER, 429, 502, 503, 504) or is_running


def main() -> None:
    """Write until killed."""
    asked = json.loads(sys.stdin.readline())
    places = [Place(address, asked["session"], asked["within_s"]) for address in asked["places"]]
    retry_s = asked.get("retry_s", 0.0)
    turn = 0
    while True:
        place = places[turn % len(places)]
        key = str(uuid.uuid4()) if retry_s else ""
        sent, tries = time.monotonic(), 1
        status, answer = place.write(key)
        while worth_repeating(status, answer) and time.monotonic() - sent < retry_s:
            turn += 1
            place = places[turn % len(places)]
            time.sleep(_AGAIN_S * random.random())
            status, answer = place.write(key)
            tries += 1
        took = time.monotonic() - sent
        made = answer.get("id", "") if status == 201 else ""
        line = {"sent": sent, "took": took, "place": place.address, "status": status, "id": made}
        told = "" if made else answer.get("detail", "")
        print(json.dumps({**line, "tries": tries, "told": told}), flush=True)
        if not made:
            turn += 1
        time.sleep(asked["pause_s"])


main()
