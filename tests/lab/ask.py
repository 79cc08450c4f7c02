"""Sends HTTPS requests to this machine and tells the answers; a stand-alone script.

`ask.py PORT`: standard input has a JSON list of requests, each an object of `method`, `path`,
`headers` and `body`. Prints a JSON list of `status`, `headers` and `body` (base64), in order.
"""

import base64
import http.client
import json
import ssl
import sys

_WITHIN_S = 60


def main() -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(
        "127.0.0.1", int(sys.argv[1]), context=context, timeout=_WITHIN_S
    )
    answers = [_answer(connection, each) for each in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)


def _answer(connection: http.client.HTTPSConnection, asked: dict) -> dict:
    body = asked.get("body")
    headers = asked.get("headers", {})
    connection.request(asked["method"], asked["path"], body and body.encode(), headers)
    answer = connection.getresponse()
    content = answer.read()  # the connection is opened again by itself where this closed it
    return {
        "status": answer.status,
        "headers": str(answer.headers),
        "body": base64.b64encode(content).decode(),
    }


if __name__ == "__main__":
    main()
