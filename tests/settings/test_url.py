"""URLs taken apart: every form, and every mistake without a word of what stood there."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache import Cache
from aikcache._redis import connector
from aikcache._settings import url as _url
from aikcache._settings.config import CacheConfig
from aikcache._settings.url import SCHEMES
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
        ("redis+cluster://[::1]:1,[fe80::1%25eth0],b", (("::1", 1), ("fe80::1%eth0", 6379), ("b", 6379)), "", "", 0),
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
        assert where.username == user
        assert where.password is not None
        assert where.password.reveal() == password


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
        (f"redis://:{SECRET}@[::1", "redis://[[user]:password@]host:port/database"),
        (f"redis://:{SECRET}@[h]:1", "with numbers for ports"),
        (f"redis+cluster://:{SECRET}@a,[::1]b:1", "with numbers for ports"),
        (f"redis://:{SECRET}@h/-1", "with numbers for ports"),
        (f"redis+cluster://:{SECRET}@h/1", "redis+cluster://[[user]:password@]host:port,host:port"),
        (f"unix://:{SECRET}@", "unix://"),
        (f"redis://:a?{SECRET}@h:6379", "look like"),
        (f"redis://h?{SECRET}=1", "the url's query has a name that is not known here: known are db, "),
        ("redis://h?sentinel_password=p", "sentinel_password is for Sentinel"),
        (f"redis://h?socket_connect_timeout={SECRET}", "socket_connect_timeout must be a number greater than 0"),
    ],
)
def test_errors_do_not_show_the_url(url: str, message: str) -> None:
    """A malformed URL is a `ConfigError` with the form it should have, and without any part that may be secret."""
    with pytest.raises(ConfigError) as caught:
        _url.parse(url)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


secrets = st.text("\N{SNOWMAN}\N{EURO SIGN}:/@?#[]&=%,+1 \0\n", min_size=1, max_size=12) | st.text(
    st.characters(min_codepoint=0x80, exclude_categories=()), min_size=1, max_size=5
)
schemes = st.sampled_from(SCHEMES) | st.sampled_from(["", "http", "redis+", "rediss+x"])
rests = st.sampled_from(
    ["h", "h:1/0", "h:1,i:2/s", "/run/s", "[::1]:1", "[::1", "h?db=x", "h?ssl_min_version=1.1", "", "h:99999", "h/1/2"]
) | st.text(max_size=8)


@given(schemes, st.text("user:", max_size=3), secrets, rests)
def test_any_text_is_a_url_or_an_error_without_it(scheme: str, user: str, secret: str, rest: str) -> None:
    """Whatever a URL holds, in whatever place, it has parts, or its error has none of them."""
    hidden = {char for char in secret if not char.isascii()}
    for url in (
        f"{scheme}://{user}:{secret}@{rest}", f"{scheme}://{rest}?{secret}=1", f"{scheme}://h?db={secret}",
        f"{scheme}://h?password={secret}", f"{scheme}:{secret}@{rest}", f"{scheme}{secret}://{rest}", secret + rest,
        f"{scheme}://h:{secret}", f"{scheme}://h/{secret}/{secret}",
    ):  # fmt: skip
        for take in (_url.parse, lambda url: CacheConfig(url=url)):
            said = ""
            try:
                take(url)
            except ConfigError as error:
                said = f"{error}{error.__cause__ or ''}"
            assert not hidden & set(said), url
            assert len(said) < 500


@pytest.mark.parametrize("text", ["h\0", "h\x1b", "h i", "h%00", "h%0a"])
def test_no_host_has_a_character_that_no_name_has(text: str) -> None:
    """A host with a control character or a space is refused; so is the path of a socket with a NUL."""
    for url in (f"redis://{text}:1/0", f"redis+cluster://a,{text}", "unix:///run/a%00b"):
        with pytest.raises(ConfigError, match="must look like"):
            _url.parse(url)


@pytest.mark.parametrize("option", ["769", "1.1", "1", "TLSv1", "771.5", "770", "nan", "0"])
def test_tls_below_1_2_is_refused(option: str) -> None:
    """`ssl_min_version` is 1.2 or 1.3, or what `ssl.TLSVersion` counts them as; anything else is a `ConfigError`."""
    with pytest.raises(ConfigError, match=r"ssl_min_version must be 1\.2 or 1\.3"):
        Cache(f"rediss://h?ssl_min_version={option}", instance="url")
    for name, version in (("1.2", 771), ("771", 771), ("1.3", 772), ("772", 772)):
        context = connector.context(_url.parse(f"rediss://h?ssl_min_version={name}").options, None)
        assert context.minimum_version == version
    assert connector.context({}, None).minimum_version == 771


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("ssl_cert_reqs=none", "takes any certificate"),
        ("ssl_check_hostname=false", "certificate of any host"),
        ("ssl_ciphers=ALL:@SECLEVEL=0", "proves? nothing"),
        ("ssl_ciphers=HIGH:ADH", "proves? nothing"),
    ],
)
def test_options_that_weaken_tls_are_warned_of_once(option: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    """A cache whose URL takes certificates for less than they should prove says so, once, when it is made."""
    for scheme in ("rediss://h", "rediss+sentinel://h/s", "rediss+cluster://h,i"):
        caplog.clear()
        with Cache(f"{scheme}?{option}", instance="url", connect_timeout=0.01) as cache:
            (line,) = [record.getMessage() for record in caplog.records]
            assert re.search(said, line)
            caplog.clear()
            assert not cache.health().ok
            assert not any(option.split("=")[0] in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("option", ["", "ssl_cert_reqs=required", "ssl_check_hostname=yes", "ssl_ciphers=HIGH:!ADH"])
def test_options_that_keep_tls_strong_are_not_warned_of(option: str, caplog: pytest.LogCaptureFixture) -> None:
    """Certificates that are checked, as they are by default, are no matter for a warning."""
    with Cache(f"rediss://h?{option}", instance="url"):
        assert not caplog.records


def test_what_only_redis_py_knows_is_ignored() -> None:
    """Options of redis-py's client that have no meaning here do not keep a URL from being used."""
    assert _url.parse("redis://h?max_connections=5&health_check_interval=30&socket_timeout=1").hosts == (("h", 6379),)
