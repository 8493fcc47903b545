"""Passwords and secrets: where a text of one's own goes, and that it comes out nowhere."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest

from aikcache import Cache, CacheConfig, ConfigError, _default
from aikcache._settings import url as _url
from aikcache._settings.secret import Secret

from .._canary import shown

CANARY = "canary-s3cr3t-canary"


def test_a_secret_shows_nothing_and_gives_its_text_when_asked() -> None:
    """Neither its representation, nor text made of it, nor a copy holds it; `reveal` does."""
    for text in (CANARY, CANARY.encode()):
        secret: Any = Secret(text)
        assert CANARY not in f"{secret!r} {secret}"
        assert secret.reveal() == copy.deepcopy(secret).reveal() == copy.copy(secret).reveal() == text


def test_secrets_are_compared_with_secrets_and_texts() -> None:
    """Equal is what holds the same, as text or as bytes; it cannot be a dictionary's key."""
    assert Secret("a") == Secret("a") == "a" != Secret("b")
    assert Secret("a") != Secret(b"a")
    assert Secret("\udcff") == "\udcff"
    assert Secret("a") != 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(Secret("a"))


def test_a_secret_is_not_pickled() -> None:
    """It says so, and what to do instead."""
    with pytest.raises(TypeError, match="a secret is not pickled: hand the setting over by itself") as caught:
        pickle.dumps(Secret(CANARY))
    assert CANARY not in shown(caught.value)


def test_the_settings_show_no_secret() -> None:
    """Text, dictionary and pickle of a configuration are without password and secret; its user can read both."""
    url = f"redis+sentinel://:{CANARY}@h/main?sentinel_password={CANARY}"
    config = CacheConfig(url=url, secret=CANARY * 2)
    assert CANARY not in repr(config) + str(dataclasses.asdict(config)) + str(dataclasses.astuple(config))
    with pytest.raises(TypeError, match="a secret is not pickled"):
        pickle.dumps(config)
    assert (config.url, config.secret) == (url, CANARY * 2)
    assert dataclasses.replace(config, timeout=1).url == url
    assert config == CacheConfig(url=url, secret=CANARY * 2)


@pytest.mark.parametrize(
    "url",
    [
        f"rediss://user:{CANARY}@h",
        f"rediss://h?password={CANARY}&ssl_certfile=c&ssl_password={CANARY}",
        f"rediss+sentinel://:{CANARY}@h/main?sentinel_password={CANARY}",
        f"unix://:{CANARY}@/s",
    ],
)
def test_what_a_url_says_shows_no_password(url: str) -> None:
    """Where to connect, and how, can be looked at without the passwords that are part of it."""
    assert CANARY not in repr(_url.parse(url))


MISTAKES: dict[str, Callable[[], object]] = {
    "a port": lambda: Cache(f"redis://:{CANARY}@h:x"),
    "an unescaped question mark": lambda: Cache(f"redis://:a?{CANARY}@h"),
    "an option": lambda: Cache(f"redis://:{CANARY}@h?zzz=1"),
    "an option's value": lambda: Cache(f"rediss://:{CANARY}@h?ssl_min_version={CANARY}"),
    "text that cannot be sent": lambda: Cache(f"redis://:{CANARY}\udcff@h"),
    "no scheme": lambda: Cache(f":{CANARY}@h"),
    "a password before the scheme": lambda: Cache(f"{CANARY}@redis://h"),
    "a password for a scheme": lambda: Cache(f"{CANARY}://h"),
    "a scheme and a password": lambda: Cache(f"redis:{CANARY[:3]}{CANARY}://h"),
    "a setting": lambda: Cache(f"redis://:{CANARY}@h", secret=CANARY * 2, timeout=-1),
    "an unknown setting": lambda: Cache(f"redis://:{CANARY}@h", secret=CANARY * 2, **cast(Any, {"zzz": 1})),
    "a setting of the default cache": lambda: _default.configure(f"redis://:{CANARY}@h", secret=CANARY * 2, timeout=-1),
    "the environment": lambda: Cache.from_env(
        {"AIKCACHE_URL": f"redis://:{CANARY}@h", "AIKCACHE_SECRET": CANARY * 2, "AIKCACHE_TIMEOUT": "soon"}
    ),
    "the environment, and an argument": lambda: Cache.from_env(
        {"AIKCACHE_URL": f"redis://:{CANARY}@h"}, secret=CANARY * 2, timeout=-1
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_no_mistake_shows_a_secret_even_with_local_variables(what: str) -> None:
    """Whatever is wrong with the settings, neither the error nor a frame between it and the caller holds a secret."""
    with pytest.raises(ConfigError) as caught:
        MISTAKES[what]()
    assert CANARY not in shown(caught.value)


def test_a_scheme_that_people_use_is_named() -> None:
    """What resembles a scheme, or is a known one of others, is said; anything else may be a password."""
    for url, said in (("redsi://h", "'redsi'"), ("http://h", "'http'"), ("hunter://h", "may be a password")):
        with pytest.raises(ConfigError, match=said):
            Cache(url)
