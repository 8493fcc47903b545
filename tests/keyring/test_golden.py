"""What rings and tokens of earlier days look like, byte for byte: who changes a vector breaks what is deployed.

The vectors were made by the package `cryptography` alone, by the form in `docs/keyring.md` and `ciphers.py`, with keys
and nonces that count upwards.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

import pytest

from aikcache._keyring.ciphers import wrapper
from aikcache._keyring.records import associated
from aikcache._keyring.store import Reading
from aikcache.sessions import KeyRing

KEY, NONCE = bytes(range(32)), bytes(range(100, 112))
MASTER = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8"
ID, TIMES = "0123456789abcdef", (1_800_000_000_000, 1_799_999_400_000, 1_807_775_400_000)
WRAPPED = "aikw1.c170eda1.ZGVmZ2hpamtsbW5vMrqS1RPswXWWH8Y9hFZTnVMk01U1qqSZvFZ6XLSr-Oa4IwErxJv_d_My_I9ResR7"
PLAIN = "aikp1..AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
MARKED = "0001020321f9aa54"
TOKEN = bytes.fromhex("010123456789abcdef6465666768696a6b6c6d6e6fc077528bcc5fa3e033a86e65a6a42124ae25f9cfc338")


@pytest.fixture(params=[WRAPPED, PLAIN], ids=["wrapped", "plain"])
def stored(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def masters(stored: str) -> dict[str, Any]:
    """What reads it: nothing else is given the ring that is not wrapped."""
    return {"allow_plaintext": True} if stored == PLAIN else {"master_key": MASTER}


def test_a_ring_as_it_was_stored_opens_what_it_has_sealed(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And seals the same, byte for byte."""
    monkeypatch.delenv("AIKCACHE_MASTER_KEY", raising=False)
    now = TIMES[0] / 1000
    url = "redis://127.0.0.1:1/0"  # nobody is asked
    with closing(
        KeyRing(url, instance="shop", refresh=3600.0, clock=lambda: now, metrics=None, **masters(stored))
    ) as ring:
        entry = " ".join([*map(str, TIMES), stored]).encode()
        reading = Reading(TIMES[0], {b"g": b"1", f"k:{ID}".encode(): entry})
        monkeypatch.setattr(ring._live._store, "read", lambda: reading)
        assert ring.unseal(TOKEN, "reset", b"mail") == b"user 7"
        monkeypatch.setattr(os, "urandom", lambda count: NONCE)
        assert ring.seal(b"user 7", "reset", b"mail") == TOKEN


def test_a_key_is_stored_as_ever(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrapped under the first master, bound to the instance, the id and the times; and its id bears the same mark."""
    monkeypatch.delenv("AIKCACHE_MASTER_KEY", raising=False)
    given = masters(stored)
    made = wrapper(given.get("master_key"), allow_plaintext=stored == PLAIN)
    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", lambda count: NONCE)
        assert made.wrap(KEY, associated("shop", ID, TIMES)) == stored
    assert made.made(MARKED) is (stored == WRAPPED)
