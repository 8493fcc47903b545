"""Many values in one round trip: `many`, `cached_many`, and values by key.

Run: python examples/batch.py [redis://localhost:6379/0]   (a private server without an argument)
"""

from __future__ import annotations

import sys

from aikcache import Cache

PRICES = {"tea": 3, "milk": 1, "bread": 2}


def main(url: str) -> None:
    with Cache(url, instance="batch-example") as cache:
        cache.clear()

        @cache.cached("price", ttl=300)
        def price(product: str) -> int:
            print("one query for", product)
            return PRICES[product]

        @cache.cached_many("price", ttl=300, operation="price")
        def prices(products: list[str]) -> dict[str, int]:
            print("one query for", *products)
            return {product: PRICES[product] for product in products if product in PRICES}

        print(price("tea"))
        print(prices(["tea", "milk", "bread"]))
        print(price.many(["bread", "tea", "milk"]))

        cache.set_many({"note:by-id:1": "buy tea", "note:by-id:2": "sell milk"}, ttl=600)
        print(cache.get_many(["note:by-id:1", "note:by-id:2", "note:by-id:3"]))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "embedded://")

# It prints:
#   one query for tea
#   3
#   one query for milk bread
#   {'tea': 3, 'milk': 1, 'bread': 2}
#   [2, 3, 1]
#   {'note:by-id:1': 'buy tea', 'note:by-id:2': 'sell milk'}
