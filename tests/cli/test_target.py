"""Which server a command asks, as it may be shown."""

from __future__ import annotations

import pytest

from aikcache._settings.secret import Secret
from aikcache.cli.target import shown

PASSWORD = "hunter2-of-the-canary"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://{user}h:7000/3?socket_connect_timeout=2", "redis://h:7000/3"),
        ("rediss://{user}[::1]/0?ssl_ca_certs=/a&ssl_password={password}", "rediss://[::1]:6379/0"),
        ("unix://{user}/run/redis.sock?db=2", "unix:///run/redis.sock"),
        ("redis+sentinel://{user}a,b:27000/shop/1?sentinel_password={password}",
         "redis+sentinel://a:26379,b:27000/shop/1"),
        ("redis+cluster://{user}a:1,b:2", "redis+cluster://a:1,b:2"),
        ("embedded:///var/cache/{password}", "embedded://"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_what_is_secret(url: str, place: str) -> None:
    """User, password and options are left out, in every form that a URL has."""
    given = Secret(url.format(user=f"cache:{PASSWORD}@", password=PASSWORD))
    assert shown(given) == place
