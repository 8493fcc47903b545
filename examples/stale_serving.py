"""A database that is down for a while: values that have aged answer, values that were invalidated never do.

Run: python examples/stale_serving.py [redis://localhost:6379/0]   (a private server without an argument)
"""

from __future__ import annotations

import sys
import time

from aikcache import Cache

TTL = 0.2


class Database:
    def __init__(self) -> None:
        self.up = True
        self.rows = {"tea": 3}

    def price(self, product: str) -> int:
        if not self.up:
            raise ConnectionError("the database is down")
        return self.rows[product]


def main(url: str) -> None:
    database = Database()
    with Cache(url, instance="stale-example") as cache:
        cache.clear()

        @cache.cached("price", ttl=TTL, error_ttl=3600)
        def price(product: str) -> int:
            return database.price(product)

        print("fresh:", price("tea"))
        database.up = False
        time.sleep(2 * TTL)
        print("aged, and the database is down:", price("tea"))
        print("answers that were stale:", cache.stats().stale)
        price.invalidate("tea")
        try:
            price("tea")
        except ConnectionError as error:
            print("invalidated:", error)
        database.up = True
        print("the database is back:", price("tea"))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "embedded://")

# It prints:
#   fresh: 3
#   aged, and the database is down: 3
#   answers that were stale: 1
#   invalidated: the database is down
#   the database is back: 3
