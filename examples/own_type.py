"""A class that aikcache does not know: taught once, then cached like any other value, equal in value and type.

Run: python examples/own_type.py [redis://localhost:6379/0]   (a private server without an argument)
"""

from __future__ import annotations

import sys

from aikcache import Cache, register_type


class Money:
    def __init__(self, cents: int, currency: str) -> None:
        self.cents, self.currency = cents, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and (self.cents, self.currency) == (other.cents, other.currency)

    def __hash__(self) -> int:
        return hash((self.cents, self.currency))

    def __repr__(self) -> str:
        return f"{self.cents / 100:.2f} {self.currency}"

    def __cache_key__(self) -> tuple[int, str]:
        """As an argument: what tells two of them apart."""
        return self.cents, self.currency


register_type(Money, name="money", encode=lambda m: [m.cents, m.currency], decode=lambda parts: Money(*parts))


def main(url: str) -> None:
    with Cache(url, instance="type-example", local_ttl=0) as cache:  # without local tier, so that Redis is asked
        cache.clear()

        @cache.cached("tax", ttl=300)
        def with_tax(price: Money) -> dict[str, list[Money]]:
            print("computing")
            return {"parts": [price, Money(price.cents // 5, price.currency)]}

        first = with_tax(Money(1000, "EUR"))
        second = with_tax(Money(1000, "EUR"))
        print(second, first == second, type(second["parts"][0]).__name__)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "embedded://")

# It prints:
#   computing
#   {'parts': [10.00 EUR, 2.00 EUR]} True Money
