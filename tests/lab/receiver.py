"""Takes webhooks and syslog on loopback, and prints all that comes; a stand-alone script.

`receiver.py WEBHOOK_PORT SYSLOG_PORT`: HTTP on TCP, datagrams on UDP.
"""

import http.server
import socket
import sys
import threading


class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        # Not the path: it is the receiver's own secret, and this is the receiver.
        print("webhook", str(self.headers), body.decode(), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """What comes is printed above."""


def syslog(port: int) -> None:
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", port))
    while True:
        print("syslog", taken.recv(65_535).decode(), flush=True)


if __name__ == "__main__":
    threading.Thread(target=syslog, args=(int(sys.argv[2]),), daemon=True).start()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Webhook)
    print("ready", flush=True)
    server.serve_forever()
