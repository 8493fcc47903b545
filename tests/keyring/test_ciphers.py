"""Master keys, and what they wrap."""

from __future__ import annotations

import secrets

import pytest

from aikcache._keyring.ciphers import MasterKeys, joined, wrapper
from aikcache.errors import ConfigError
from aikcache.sessions import KeyRing

OLD, NEW = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
KEY = secrets.token_bytes(32)


@pytest.mark.parametrize(
    ("given", "says"),
    [(None, "token_urlsafe"), ("", "token_urlsafe"), ("abcd", "got 3 bytes"), ("no+base64", "no base64url")],
)
def test_a_bad_master_key_says_how_to_make_one(given: str | None, says: str) -> None:
    """No master key, one of a wrong length and one that is no base64url are refused by a message with the way out."""
    with pytest.raises(ConfigError, match="Make one with") as raised:
        wrapper(given, allow_plaintext=False)
    assert says in str(raised.value)
    assert not given or given not in str(raised.value)


@pytest.mark.parametrize(
    "given",
    [f"{NEW},{OLD}", f"{NEW}, {OLD}".encode(), [NEW, OLD], lambda: [NEW, OLD.encode()]],
    ids=["text", "bytes", "list", "function"],
)
def test_the_first_master_key_wraps_and_all_unwrap(given: MasterKeys) -> None:
    """Several master keys may be given in any form."""
    old, both = wrapper(OLD, allow_plaintext=False), wrapper(given, allow_plaintext=False)
    wrapped = both.wrap(KEY, b"bound")
    assert both.is_current(wrapped)
    assert old.unwrap(wrapped, b"bound") is None
    assert both.unwrap(old.wrap(KEY, b"bound"), b"bound") == KEY
    assert wrapper(NEW, allow_plaintext=False).unwrap(wrapped, b"bound") == KEY


def test_a_wrapped_key_is_bound_to_its_times() -> None:
    """Under other associated data, or changed in any character, it does not open."""
    one = wrapper(OLD, allow_plaintext=False)
    wrapped = one.wrap(KEY, b"bound")
    assert one.unwrap(wrapped, b"other") is None
    for at in range(len(wrapped)):
        assert one.unwrap(wrapped[:at] + ("A" if wrapped[at] != "A" else "B") + wrapped[at + 1 :], b"bound") in (
            None,
            KEY,  # the last character of base64 has bits that mean nothing
        )


def test_plain_keys_are_read_only_where_that_is_allowed() -> None:
    """A user who can write to Redis cannot put a key into a ring that has a master key."""
    plain = wrapper(None, allow_plaintext=True).wrap(KEY, b"bound")
    assert wrapper(OLD, allow_plaintext=False).unwrap(plain, b"bound") is None
    assert wrapper(OLD, allow_plaintext=True).unwrap(plain, b"bound") == KEY


def test_parts_cannot_be_cut_elsewhere() -> None:
    """Lists of parts that are the same text joined are different associated data."""
    assert joined((b"a", b"bc")) != joined((b"ab", b"c"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"instance": "a:b"}, "instance"),
        ({"lifetime": 1000, "propagation": 600}, "lifetime must be more than"),
        ({"refresh": 0}, "refresh must be greater than 0"),
        ({"retention": -1}, "retention must be between"),
        ({"url": "http://x"}, "url"),
    ],
)
def test_a_bad_argument_of_the_ring_is_a_config_error(arguments: dict[str, object], says: str) -> None:
    """The message names the argument; nothing is asked of a server."""
    with pytest.raises(ConfigError, match=says):
        KeyRing(**{"url": "redis://127.0.0.1:1/0", "master_key": OLD, **arguments})  # type: ignore[arg-type]


def test_a_ring_without_a_server_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL in the arguments or the environment there is nowhere to keep it."""
    for name in ("AIKCACHE_SESSION_URL", "AIKCACHE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="AIKCACHE_SESSION_URL"):
        KeyRing(master_key=OLD)
