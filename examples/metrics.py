"""What a cache did: in this process by `stats()`, for all processes by `fleet()`, and as Prometheus is given it.

Run: python examples/metrics.py [redis://localhost:6379/0]   (a private server without an argument)
"""

from __future__ import annotations

import sys
from wsgiref.util import setup_testing_defaults

from aikcache import Cache
from aikcache.prometheus import metrics_app


def scrape(path: str = "/metrics/cache") -> list[str]:
    """What a scrape would get; behind a web server `metrics_app()` is mounted as any WSGI application."""
    environ: dict[str, object] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    answer = b"".join(metrics_app("shop")(environ, lambda status, headers: print(path, status)))
    return answer.decode().splitlines()


def main(url: str) -> None:
    with Cache(url, instance="metrics-example", metrics="shop") as cache:
        cache.clear()

        @cache.cached("price", ttl=300)
        def price(product: str) -> int:
            return len(product)

        for _ in range(9):
            price("tea")
        price("milk")

        stats = cache.stats()
        print(f"this process: {stats.hits} hits, {stats.misses} misses, hit rate {stats.hit_rate:.0%}")
        print("of price:price:", stats.operations["price:price"].hits, "hits")
        totals = cache.fleet()
        print(f"all processes: {len(totals.processes)}, {totals.hits} hits")
        print(*(line for line in scrape() if line.startswith("shop_cache_misses_total")), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "embedded://")

# It prints:
#   this process: 8 hits, 2 misses, hit rate 80%
#   of price:price: 8 hits
#   all processes: 1, 8 hits
#   /metrics/cache 200 OK
#   shop_cache_misses_total{operation="price:price"} 2.0
