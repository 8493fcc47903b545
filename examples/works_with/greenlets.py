"""gevent: greenlets in the place of threads, after `monkey.patch_all()`.

What holds then: one load for each key among all greenlets and processes; a greenlet that waits for Redis, or for
another's load, lets the others run; invalidations are pushed as ever; `gevent.Timeout` reaches the caller. Without the
patch a call is right all the same, but it holds up all greenlets of its thread while it waits, for `timeout` at most.
A patch after the import of aikcache is too late: calls are then answered without Redis, and the log says why.

Run: python examples/works_with/greenlets.py [redis://localhost:6379/0]   (a private server without an argument)
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

import gevent  # noqa: E402

from aikcache import Cache  # noqa: E402
from aikcache.testing import Server, wait_until  # noqa: E402


def main(url: str) -> None:
    patient = {"timeout": 20, "connect_timeout": 20, "lease_wait": 120}  # a busy machine may be slow
    cache, other = (Cache(url, instance="greenlets", **patient) for _ in range(2))  # type: ignore[arg-type]
    with cache, other:
        cache.clear()
        runs: list[int] = []

        @cache.cached("square", ttl=300)
        def square(x: int) -> int:
            runs.append(x)
            gevent.sleep(0.05)  # the database
            return x * x

        jobs = [gevent.spawn(square, number % 10) for number in range(200)]
        gevent.joinall(jobs, raise_error=True)
        print("200 calls, right:", [job.value for job in jobs[:10]] == [x * x for x in range(10)], "runs:", len(runs))

        cache.wait_coherent(60)
        other.invalidate_key("square:square:3")
        wait_until(lambda: square.peek(3) is None, 60)
        print("what another process invalidates arrives")

        @cache.cached("slow", ttl=300)
        def slow() -> int:
            gevent.sleep(600)
            return 1

        try:
            with gevent.Timeout(0.05):
                slow()
        except gevent.Timeout:
            print("a timeout comes through")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with Server() as server:
            main(server.url)

# It prints:
#   200 calls, right: True runs: 10
#   what another process invalidates arrives
#   a timeout comes through
