"""URLs taken apart: every form, and every mistake without a word of what stood there."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache import _url
from aikcache.errors import ConfigError

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "hosts", "path", "service", "db"),
    [
        ("redis://", (("localhost", 6379),), "", "", 0),
        ("redis://h", (("h", 6379),), "", "", 0),
        ("rediss://h:1/15", (("h", 1),), "", "", 15),
        ("redis://h?db=3", (("h", 6379),), "", "", 3),
        ("redis://[::1]:7/2", (("::1", 7),), "", "", 2),
        ("redis://[::1]", (("::1", 6379),), "", "", 0),
        ("unix:///run/a%20b.sock?db=4", (), "/run/a b.sock", "", 4),
        ("redis+sentinel://a:1,b/main", (("a", 1), ("b", 26379)), "", "main", 0),
        ("rediss+sentinel://a,[::1]:2/ma%2Fin/5", (("a", 26379), ("::1", 2)), "", "ma/in", 5),
        ("redis+cluster://a:7000,b:7001", (("a", 7000), ("b", 7001)), "", "", 0),
    ],
)
def test_every_form(url: str, hosts: tuple[tuple[str, int], ...], path: str, service: str, db: int) -> None:
    """Hosts, path, service and database come out of every form, with the defaults of what is left out."""
    where = _url.parse(url)
    assert (where.hosts, where.path, where.service, where.db) == (hosts, path, service, db)
    assert where.tls == url.startswith("rediss")
    assert (where.username, where.password) == (None, None)


@given(user=st.text(min_size=1), password=st.text())
def test_logins_come_back_whatever_they_hold(user: str, password: str) -> None:
    """User and password, percent-encoded, come out as they went in, for one host and for several."""
    try:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@"
    except UnicodeEncodeError:  # a lone surrogate is no text
        return
    for url in (f"redis://{login}h:1/0", f"redis+sentinel://{login}h:1,i:2/main", f"unix://{login}/s"):
        where = _url.parse(url)
        assert (where.username, where.password) == (user, password)


def test_logins_of_other_forms() -> None:
    """A password alone, a user alone, an empty password, and the query's."""
    for url, login in (
        ("redis://:p@h", (None, "p")),
        ("redis://u@h", ("u", None)),
        ("redis://u:@h", ("u", "")),
        ("redis://h?username=u&password=p", ("u", "p")),
    ):
        where = _url.parse(url)
        assert (where.username, where.password) == login


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            f"redis+sentinel://:{SECRET}@h:1",
            "redis+sentinel://[[user]:password@]host:26379,host:26379/SERVICE/database",
        ),
        (f"redis+sentinel://:{SECRET}@h:1/", "/SERVICE/database"),
        (f"redis+sentinel://:{SECRET}@h:x/main", "with numbers for ports"),
        (f"redis+sentinel://:{SECRET}@h:1/main/{SECRET}", "with numbers for ports and database"),
        (f"redis+sentinel://:{SECRET}@h:1/main/0/{SECRET}", "/SERVICE/database"),
        (f"redis://:{SECRET}@h:0", "with numbers for ports"),
        (f"redis://:{SECRET}@h/-1", "with numbers for ports"),
        (f"redis+cluster://:{SECRET}@h/1", "redis+cluster://[[user]:password@]host:port,host:port"),
        (f"unix://:{SECRET}@", "unix://"),
        (f"redis://:a?{SECRET}@h:6379", "look like"),
        (f"redis://h?{SECRET}=1", "the url's query has a name that is not known here: known are db, "),
        ("redis://h?sentinel_password=p", "sentinel_password is for Sentinel"),
        (f"redis://h?socket_connect_timeout={SECRET}", "socket_connect_timeout must be a number greater than 0"),
    ],
)
def test_mistakes_are_told_without_what_stood_there(url: str, message: str) -> None:
    """A malformed URL is a `ConfigError` with the form it should have, and without any part that may be secret."""
    with pytest.raises(ConfigError) as caught:
        _url.parse(url)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_only_redis_py_knows_is_ignored() -> None:
    """Options of redis-py's client that have no meaning here do not keep a URL from being used."""
    assert _url.parse("redis://h?max_connections=5&health_check_interval=30&socket_timeout=1").hosts == (("h", 6379),)
