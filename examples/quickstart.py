"""A cached function, and a write that invalidates it: the README's beginning as a program.

Run: python examples/quickstart.py [redis://localhost:6379/0]   (a private server without an argument)
"""

from __future__ import annotations

import sys

from aikcache import cached, configure, invalidates

database = {"tea": 3, "milk": 1}


@cached("price", ttl=300, tags=("product:{product}",))
def price(product: str, currency: str = "EUR") -> dict[str, int | str]:
    print("asking the database for", product)
    return {"amount": database[product], "currency": currency}


@invalidates(tags=("product:{product}",))
def set_price(product: str, amount: int) -> None:
    database[product] = amount


def main(url: str) -> None:
    with configure(url, instance="quickstart") as cache:
        cache.clear()
        print(price("tea"))
        print(price("tea"))
        set_price("tea", 4)
        print(price("tea"))
        print(price.key("tea"))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "embedded://")

# It prints:
#   asking the database for tea
#   {'amount': 3, 'currency': 'EUR'}
#   {'amount': 3, 'currency': 'EUR'}
#   asking the database for tea
#   {'amount': 4, 'currency': 'EUR'}
#   quickstart:v1:price:price:tea:currency|EUR
