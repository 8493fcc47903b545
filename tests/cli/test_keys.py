"""`aikcache keys` and `aikcache show`: what lies in Redis, and what the library knows of it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import redis

from aikcache import Cache
from aikcache._codec.codec import TYPED, Codec
from aikcache._codec.frame import Frame
from aikcache.cli import show as _show
from aikcache.testing import Server

from ..with_redis import _attacks
from ..with_redis._staging import Refusal

pytestmark = pytest.mark.servers

PATIENT = "60"
SECRET = secrets.token_urlsafe(32)
SLOW = {"timeout": 60, "connect_timeout": 60}


@dataclass(frozen=True)
class Point:
    x: int
    y: int


@pytest.fixture
def cache(redis_url: str) -> Iterator[Cache]:
    with Cache(redis_url, instance="shop", local_ttl=0, **SLOW) as cache:  # type: ignore[arg-type]
        yield cache


@pytest.fixture
def ask(run: Callable[..., Any], redis_url: str) -> Callable[..., Any]:
    """`ask("keys", "price")`, on that server."""
    return lambda *words, **env: run(*words, "--url", redis_url, "--instance", "shop", "--timeout", PATIENT, **env)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a:f:1", "a:f:2", "a:g:1", "ab:f:1"]),
        ("a", ["a:f:1", "a:f:2", "a:g:1"]),
        ("a:f", ["a:f:1", "a:f:2"]),
        ("a:f:*", ["a:f:1", "a:f:2"]),
        ("a:f:2", ["a:f:2"]),
        ("*:1", ["a:f:1", "a:g:1", "ab:f:1"]),
        ("nothing", []),
    ],
)
def test_a_pattern_covers_what_it_invalidates(
    cache: Cache, ask: Callable[..., Any], pattern: str, found: list[str]
) -> None:
    """The keys that are listed are those that are gone afterwards."""
    cache.set_many(dict.fromkeys(["a:f:1", "a:f:2", "a:g:1", "ab:f:1"], 1))
    listed = ask("keys", pattern)
    assert listed.stdout.split() == found
    assert ("No key of shop is covered by" in listed.stderr) == (not found)
    cache.invalidate(pattern)
    assert sorted(cache.get_many(["a:f:1", "a:f:2", "a:g:1", "ab:f:1"])) == sorted(
        {"a:f:1", "a:f:2", "a:g:1", "ab:f:1"} - set(found)
    )


def test_keys_come_with_size_and_time_and_a_limit(cache: Cache, ask: Callable[..., Any], redis_url: str) -> None:
    """What others wrote into the key space moves no cursor."""
    cache.set("a:f:1", "x" * 10, ttl=600)
    with redis.Redis.from_url(redis_url) as client:
        client.set("shop:v1:a:f:\x1b[2J", "evil")
    shown = json.loads(ask("keys", "--long", "--json").stdout)["keys"]
    assert [row["kept_seconds"] is None for row in shown] == [True, False]
    assert "\x1b" not in ask("keys").stdout + ask("keys", "-l").stdout
    cut = ask("keys", "--limit", "1")
    assert (len(cut.stdout.split()), "There are more" in cut.stderr) == (1, True)


def test_a_value_is_shown_with_all_that_is_known(cache: Cache, ask: Callable[..., Any]) -> None:
    """As text and as JSON."""
    cache.set("a:f:1", {"text": "\x9b2J" + "x" * 4000}, ttl=600, tags=("t:1",))
    shown = json.loads(ask("show", "a:f:1", "--json").stdout)
    assert shown.pop("value") == {"text": "\x9b2J" + "x" * 4000}
    assert shown.pop("stamps").keys() == {"*", "a", "a:f", "#t:1"}
    assert 0 < shown.pop("ttl_seconds") <= shown.pop("kept_seconds") <= 600
    assert 0 <= shown.pop("age_seconds") < 600
    assert shown.pop("bytes") < 1000 < shown.pop("payload_bytes")
    assert shown.pop("load_seconds") >= 0
    assert shown == {
        "key": "shop:v1:a:f:1", "type": "dict", "form": "JSON", "current": True, "tags": ["t:1"], "compressed": True,
        "sealed": False, "refused": None,
    }  # fmt: skip
    text = ask("show", "shop:v1:a:f:1")
    assert "answers calls" in text.stdout
    assert "more characters: --full" in text.stdout
    assert not {"\x1b", "\x9b"} & set(text.stdout)
    assert "xxx" not in ask("show", "a:f:1", "--no-value").output
    assert "xxx" not in ask("show", "a:f:1", "--no-value", "--json").output


def test_an_invalidated_value_is_shown_as_invalidated(cache: Cache, ask: Callable[..., Any]) -> None:
    """It is still in Redis, and answers no call."""
    cache.set("a:f:1", 1, ttl=600, tags=("t",))
    cache.invalidate_tags("t")
    assert "is invalidated" in ask("show", "a:f:1").stdout


def test_what_cannot_be_read_is_named(cache: Cache, ask: Callable[..., Any], redis_url: str) -> None:
    """Nothing, no frame of ours, one that is sealed, and no key at all."""
    absent = ask("show", "a:f:1")
    assert (absent.exit_code, "there is no value under shop:v1:a:f:1" in absent.stderr) == (1, True)
    with redis.Redis.from_url(redis_url) as client:
        client.set("shop:v1:a:f:2", "garbage")
    assert "not" in ask("show", "a:f:2").stderr
    assert ask("show", "a b").exit_code == 2
    with Cache(redis_url, instance="shop", secret=SECRET, **SLOW) as sealing:  # type: ignore[arg-type]
        sealing.set("a:f:3", "hunter2", ttl=600)
    assert "set AIKCACHE_SECRET" in ask("show", "a:f:3").stderr
    opened = json.loads(ask("show", "a:f:3", "--json", AIKCACHE_SECRET=SECRET).stdout)
    assert (opened["value"], opened["sealed"]) == ("hunter2", True)


@pytest.mark.parametrize("kind", Refusal.KINDS)
def test_a_server_that_refuses_writes_shows_its_values(
    cache: Cache, ask: Callable[..., Any], own_server: Server, kind: str
) -> None:
    """With all that is known, and that no process uses them; also where it has just started."""
    cache.set("a:f:1", [1, 2], ttl=600, tags=("t",))
    with closing(Refusal(kind, own_server)) as refusal:
        refusal.begin()
        shown = json.loads(ask("show", "a:f:1", "--json").stdout)
        text = ask("show", "a:f:1").stdout
    assert (shown["value"], shown["current"], shown["tags"]) == ([1, 2], True, ["t"])
    assert None not in shown["stamps"].values()
    assert f"No process uses it now, because the server refuses: {kind}. " in text


def test_classes_of_the_application_are_plain_data(cache: Cache, ask: Callable[..., Any]) -> None:
    """By the annotation or without one."""

    @cache.cached("a", operation="typed")
    def typed(x: int) -> Point:
        return Point(x, 2)

    @cache.cached("a", operation="tagged")
    def tagged(x: int) -> Any:
        return {1: x}

    typed(1)
    tagged(1)
    assert json.loads(ask("show", "a:typed:1", "--json").stdout)["value"] == {"x": 1, "y": 2}
    assert json.loads(ask("show", "a:tagged:1", "--json").stdout)["value"] == {"1": 1}


def test_a_key_that_is_not_text_belongs_to_no_operation(cache: Cache, ask: Callable[..., Any], redis_url: str) -> None:
    """Keys of the library are UTF-8; what is not is passed over."""
    cache.set("a:f:1", 1, ttl=600, tags=("t",))
    with redis.Redis.from_url(redis_url) as client:
        client.set(b"shop:v1:a:f:\xff", 1)
    for words in (["keys"], ["keys", "--long"], ["keys", "--long", "--json"]):
        assert (shown := ask(*words)).exit_code == 0
        assert shown.stdout.count("a:f:") == 1
    assert "1 key of shop would" in ask("invalidate", "--tag", "t", "--dry-run").stdout
    assert "1 key of shop would" in ask("invalidate", "a", "--dry-run").stdout


def _nested(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [2**20000, [2**20000]], ids=["int", "ints"])
def test_a_number_too_long_to_print_is_not_shown(cache: Cache, ask: Callable[..., Any], value: Any) -> None:
    """A number of thousands of digits: all other facts are shown."""
    cache.set("a:f:1", value, ttl=600)
    for words in (["show", "a:f:1"], ["show", "a:f:1", "--json"]):
        shown = ask(*words)
        assert shown.exit_code == 0
        assert "too large or too deep to be shown" in shown.stdout
        assert type(value).__name__ in shown.stdout


def test_forged_nesting_is_shown_or_refused(run: Callable[..., Any], redis_url: str) -> None:
    """However deep it is, the command answers."""
    with (
        redis.Redis.from_url(redis_url) as raw,
        Cache(redis_url, instance="attacked", **SLOW) as cache,  # type: ignore[arg-type]
    ):
        cache.set("x:get:1", 1, ttl=600)
        for depth in (100, 300, 500, 700, 900, 980, 1000, 5000):
            _attacks.forge(raw, b"[" * depth + b"]" * depth, 0)
            for words in ([], ["--json"]):
                assert run("show", "x:get:1", "--url", redis_url, "--instance", "attacked", *words).exit_code == 0


def test_a_deeply_nested_value_is_printed_on_one_line(
    cache: Cache, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes time in proportion to levels and size; it is shown in one line."""
    cache.set("a:f:1", _nested(60, [7, "["] * 20), ttl=600)
    cache.set("a:f:2", [list(range(2000)) for _ in range(5)], ttl=600)
    monkeypatch.setattr(_show, "pformat", lambda *values, **options: pytest.fail("it is laid out"))
    for key in ("a:f:1", "a:f:2"):
        assert "[[" in ask("show", key).stdout
    assert json.loads(ask("show", "a:f:1", "--json").stdout)["value"].startswith("[[[")


def _colliding(count: int) -> list[tuple[int, int]]:
    """Pairs of one hash: a tuple's can be computed backwards from its last item."""
    size, first, second, start = 2**64, 11400714785074694791, 14029467366897019727, 2870177450012600261
    undo = pow(second, -1, size)

    def after(item: int) -> int:
        mixed = (start + item * second) % size
        return ((mixed << 31) | (mixed >> 33)) * first % size

    wanted = after(1) + 5 * second
    found = [(item, (wanted - after(item)) * undo % size) for item in range(1, 8 * count)]
    return [pair for pair in found if pair[1] < 2**61 - 1][:count]


def test_pairs_of_one_hash_are_not_made_keys_of_a_dict() -> None:
    """Which would take time in proportion to the square of their number; the bytes are shown as they are."""
    pairs = _colliding(5000)
    assert (len(pairs), len(set(map(hash, pairs)))) == (5000, 1)
    frame = Frame(TYPED, b"", b"", 0, 0, 0, (), msgspec.msgpack.encode(dict.fromkeys(pairs, 0)))
    assert _show._value(Codec(None, by_hand=True), frame)[1] == "a class of the application's"
    plain = Frame(TYPED, b"", b"", 0, 0, 0, (), msgspec.msgpack.encode([{"n": n} for n in range(20_000)]))
    assert _show._value(Codec(None, by_hand=True), plain)[0] == [{"n": n} for n in range(20_000)]
