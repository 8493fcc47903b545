"""A redis-py client of your own, and credentials that change, instead of a password in a URL.

It starts a server that asks for a password, as your platform's would.

Run: python examples/own_client.py
"""

from __future__ import annotations

import redis
from redis.credentials import CredentialProvider

from aikcache import Cache
from aikcache.testing import Server

PASSWORD = "from your platform"


class Tokens(CredentialProvider):
    """Asked before each connection, so what it gives may be short-lived: ask your platform's token service here."""

    def __init__(self) -> None:
        self.asked = 0

    def get_credentials(self) -> tuple[str]:
        self.asked += 1
        return (PASSWORD,)


def use(cache: Cache) -> None:
    with cache:
        cache.ping()  # raises if we cannot log in

        @cache.cached("price", ttl=300)
        def price(product: str) -> int:
            print("computing the price of", product)
            return 3

        print(price("tea"))


def main() -> None:
    with Server(port=0, password=PASSWORD) as server:
        client = redis.Redis(host="127.0.0.1", port=server.port or 0, password=PASSWORD)
        use(Cache(client=client, instance="client-example"))
        client.close()

        tokens = Tokens()
        use(Cache(f"redis://127.0.0.1:{server.port}/0", instance="client-example", credential_provider=tokens))
        print("the provider was asked:", tokens.asked > 0)


if __name__ == "__main__":
    main()

# It prints:
#   computing the price of tea
#   3
#   3
#   the provider was asked: True
