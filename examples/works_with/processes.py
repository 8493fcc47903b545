"""multiprocessing: a cache that is made before processes are, by fork and by spawn.

A forked process inherits the cache, and what it held locally; connections and threads are its own.
A spawned one imports this module anew, and so decorates anew: it needs the settings again, here by an initializer.

Run: python examples/works_with/processes.py [redis://localhost:6379/0]   (a private server without an argument)
"""

from __future__ import annotations

import multiprocessing
import os
import sys

from aikcache import cached, configure, default_cache
from aikcache.testing import Server, wait_until


@cached("square", ttl=300)
def square(x: int) -> tuple[int, int]:
    return x * x, os.getpid()


def work(x: int) -> tuple[int, int]:
    """In a worker; decorated functions can be sent to one as well."""
    return square(x)


def forget(x: int) -> None:
    square.invalidate(x)


def begin(url: str) -> None:
    configure(url, instance="processes", timeout=20, connect_timeout=20, lease_wait=120)  # a busy machine may be slow


def main(url: str) -> None:
    begin(url)
    default_cache().clear()
    first = square(3)
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        initializer = begin if method == "spawn" else None
        with context.Pool(2, initializer, (url,) if initializer else ()) as pool:
            seen = pool.map(work, [3, 3, 4, 4], chunksize=1)
            loaded = {pid for _, pid in seen[2:]}
            print(method, [number for number, _ in seen])
            print("  3 was loaded here:", seen[:2] == [first, first], "- 4 by one of them:", len(loaded) == 1)
            pool.apply(forget, (3,))  # in a worker: heard here
            wait_until(lambda: square.peek(3) is None, 60)
            first = square(3)
        square.invalidate(4)
    default_cache().close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with Server() as server:
            main(server.url)

# It prints:
#   fork [9, 9, 16, 16]
#     3 was loaded here: True - 4 by one of them: True
#   spawn [9, 9, 16, 16]
#     3 was loaded here: True - 4 by one of them: True
