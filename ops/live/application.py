"""An application under load, in a process of its own: eleven cached operations, and `/metrics/cache`.

    python -m ops.live.application PORT        # the cache's URL in AIKCACHE_URL

With AIKCACHE_SESSION_URL and AIKCACHE_MASTER_KEY it has sessions too. Words on standard input change it: `cold` (every
call asks for something new) and `warm`, `source-down` (the functions behind stale values fail) and `source-up`, `later`
(for the key ring 89 days have gone by). It ends with its standard input.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from aikcache import Cache
from aikcache.errors import SessionUnavailableError
from aikcache.prometheus import metrics_app
from aikcache.sessions import Drop, KeyRing, SessionStore, Set

HOST = "127.0.0.1"
PAUSE = 0.01
"""Seconds between two calls of a thread: enough calls for every figure, and little CPU."""
LATER = 89 * 86_400
"""Seconds after which a key of the ring is due to be replaced, and still seals."""
RATE = "version:rate"
_NAMES = (
    "resource:by_id", "resource:children", "resource:owner", "search:modules", "search:names", "lineage:upstream",
    "lineage:downstream", "relationship:imports", "relationship:importers", "version:latest", RATE,
)  # fmt: skip


class Load:
    """Threads that call cached functions, some more often than others."""

    def __init__(self, cache: Cache) -> None:
        self.cold = self.source_down = False
        self._cache = cache
        self._over = threading.Event()
        self._functions = [self._function(index, name) for index, name in enumerate(_NAMES)]
        self._weights = [1 / (1 + index / 2) for index in range(len(_NAMES))]

    def _function(self, index: int, name: str) -> Callable[[int], str]:
        prefix, operation = name.split(":")

        def load(number: int) -> str:
            if name == RATE and self.source_down:
                raise ConnectionError("the source is down")
            self._over.wait(0.002 * (1 + index % 5))
            return f"{name} {number} " + "." * 100 * index

        if name == RATE:
            return self._cache.cached(prefix, operation=operation, ttl=1, error_ttl=3600)(load)
        # Every third is not held here, so each of its calls is a round trip.
        local_ttl = 0.0 if index % 3 == 1 else None
        return self._cache.cached(prefix, operation=operation, ttl=20 + 10 * index, local_ttl=local_ttl)(load)

    def work(self) -> None:
        """One thread's work."""
        while not self._over.wait(PAUSE):
            function = random.choices(self._functions, self._weights)[0]
            number = int(random.paretovariate(0.9)) % 500
            if self.cold and function is not self._functions[-1]:
                number = random.getrandbits(60)
            try:
                function(number if function is not self._functions[-1] else 1)
            except ConnectionError:  # the source, and nothing stale is there yet
                continue

    def invalidate(self) -> None:
        """Now and then something has changed."""
        while not self._over.wait(0.5):
            self._cache.invalidate(random.choice(_NAMES[:3]) + ":{number}", number=random.randrange(20))

    def end(self) -> None:
        self._over.set()


class Visitors:
    """Some browsers, whose sessions are begun, written and ended."""

    def __init__(self) -> None:
        self.late = 0
        self._ring = KeyRing(clock=lambda: time.time() + self.late)
        self._store = SessionStore(ring=self._ring)
        self._cookies: list[str | None] = [None] * 5

    def work(self) -> None:
        """Ten requests a second, for as long as the process lives."""
        while True:
            time.sleep(10 * PAUSE)
            place = random.randrange(len(self._cookies))
            try:
                self._cookies[place] = self._visit(self._cookies[place])
            except SessionUnavailableError:  # this visitor gets an error, and comes again
                continue

    def _visit(self, cookie: str | None) -> str | None:
        session = self._store.open(cookie)
        session["visits"] = session.get("visits", 0) + 1
        if session["visits"] > 20:
            session.end()
        outcome = self._store.commit(session)
        if isinstance(outcome, Set):
            return outcome.value
        return None if isinstance(outcome, Drop) else cookie


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line for each scrape."""


def main() -> None:
    with Cache(os.environ["AIKCACHE_URL"], instance="aikernel", publish_interval=5) as cache:
        load = Load(cache)
        visitors = Visitors() if "AIKCACHE_SESSION_URL" in os.environ else None
        server = make_server(HOST, int(sys.argv[1]), metrics_app(), _Server, _Quiet)
        works = [server.serve_forever, load.work, load.work, load.invalidate]
        for work in (*works, *([visitors.work] if visitors else [])):
            threading.Thread(target=work, daemon=True).start()
        print("serving", flush=True)
        for line in sys.stdin:
            word = line.strip()
            if word in ("cold", "warm"):
                load.cold = word == "cold"
            elif word in ("source-down", "source-up"):
                load.source_down = word == "source-down"
            elif word == "later" and visitors:
                visitors.late = LATER
        load.end()
        server.shutdown()


if __name__ == "__main__":
    main()
