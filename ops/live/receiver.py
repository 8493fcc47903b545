"""A webhook that receives Alertmanager's notifications."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Notification(NamedTuple):
    """One alert as it was delivered. `receiver` is Alertmanager's name of it, `status` firing or resolved."""

    receiver: str
    name: str
    severity: str
    status: str


class Receiver:
    """An HTTP server that keeps the notifications."""

    def __init__(self, host: str, port: int) -> None:
        notifications: list[Notification] = []
        self.notifications = notifications

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in message["alerts"]:
                    labels = alert["labels"]
                    notifications.append(
                        Notification(self.path[1:], labels["alertname"], labels["severity"], alert["status"])
                    )
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def last(self) -> dict[tuple[str, str], Notification]:
        """The latest word on each alert, by name and severity."""
        return {(one.name, one.severity): one for one in list(self.notifications)}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
