"""Writes through the operations API for as long as it runs, and tells how each write ended.

First line of stdin: {"places": ["HOST:PORT", ...], "session": TOKEN, "pause_s": S}. A write makes
an enrolment token. Each line of output is a JSON object: when it was sent (CLOCK_MONOTONIC),
how long it took, where, the status, and the ID of what was made. It stays at a place for as
long as that works, as a client of ours does.
"""

import http.client
import json
import ssl
import sys
import time

_WITHIN_S = 4.0


class Place:
    """One appliance, with a connection that is kept."""

    def __init__(self, address: str, session: str) -> None:
        self.address = address
        self._session = session
        self._connection: http.client.HTTPSConnection | None = None

    def write(self) -> tuple[int, str]:
        """Make a token; return the status (0: no answer) and its ID."""
        try:
            if self._connection is None:
                context = ssl._create_unverified_context()
                self._connection = http.client.HTTPSConnection(
                    self.address, timeout=_WITHIN_S, context=context
                )
            headers = {
                "Authorization": f"Bearer {self._session}",
                "Content-Type": "application/json",
            }
            self._connection.request("POST", "/api/v1/tokens", b"{}", headers)
            answer = self._connection.getresponse()
            body = json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return 0, ""
        return answer.status, body.get("id", "") if answer.status == 201 else ""


def main() -> None:
    """Write until killed."""
    asked = json.loads(sys.stdin.readline())
    places = [Place(address, asked["session"]) for address in asked["places"]]
    turn = 0
    while True:
        place = places[turn % len(places)]
        sent = time.monotonic()
        status, made = place.write()
        took = time.monotonic() - sent
        line = {"sent": sent, "took": took, "place": place.address, "status": status, "id": made}
        print(json.dumps(line), flush=True)
        if not made:
            turn += 1
        time.sleep(asked["pause_s"])


main()
