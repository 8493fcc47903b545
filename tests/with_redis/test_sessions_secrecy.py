"""Who has all that is in Redis and the ring's keys, but not the cookie, opens no field of a session."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aikcache.sessions import KeyRing, SessionStore, Set

from ._rings import make_rings_patient
from ._workers import PATIENCE

SUBJECT, SECRET = "ada@example.org", "the diagnosis"


def hkdf(key: bytes, purpose: str) -> bytes:
    info = f"aikcache/v1/{purpose}".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)


def parts(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def tried(sealed: bytes, name: bytes, key: bytes) -> bytes | None:
    """A sealed field opened with this key, in epoch 0; None: it is another's."""
    with contextlib.suppress(InvalidTag):
        return AESGCM(key).decrypt(sealed[8:20], sealed[20:], parts(name, b"0"))
    return None


def dumped(client: Any) -> dict[bytes, dict[bytes, bytes]]:
    """All that is in Redis, by key: the hashes, and the members of sorted sets."""
    found = {}
    for name in client.scan_iter():
        kind = client.type(name)
        assert kind in (b"hash", b"zset")
        found[name] = client.hgetall(name) if kind == b"hash" else dict.fromkeys(client.zrange(name, 0, -1), b"")
    return found


def known(dump: dict[bytes, dict[bytes, bytes]]) -> Iterator[bytes]:
    """Every name and value there, its parts, what they are in base64url and hex, and the digests of all that."""
    texts = {b"", SUBJECT.encode(), *dump, *(part for key in dump.values() for pair in key.items() for part in pair)}
    texts |= {part for text in texts for part in text.split(b":")} | {text[1:] for text in texts}
    raw = set(texts)
    for text in texts:
        with contextlib.suppress(ValueError):
            raw.add(base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4)))
        with contextlib.suppress(ValueError):
            raw.add(bytes.fromhex(text.decode()))
    yield from raw | {hashlib.sha256(text).digest() for text in raw}


def test_redis_and_the_ring_open_no_field_without_the_cookie(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the id's place no name or value that Redis holds opens anything; with the id of the cookie all opens."""
    make_rings_patient(monkeypatch)
    with (
        closing(KeyRing(redis_url, instance="shop", master_key=secrets.token_urlsafe(32), refresh=3600.0)) as ring,
        closing(SessionStore(redis_url, ring=ring, instance="shop", timeout=PATIENCE, grace=600)) as store,
        redis.Redis.from_url(redis_url) as client,
    ):
        session = store.open(None)
        session["note"] = SECRET
        session.bind(SUBJECT, "laptop")
        began = store.commit(session)
        assert isinstance(began, Set)
        session = store.open(began.value)
        session.regenerate()
        outcome = store.commit(session)
        assert isinstance(outcome, Set)
        cookies = [
            base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4)) for cookie in (began.value, outcome.value)
        ]
        (key,) = (key.secret.reveal() for key in ring._live.ring.keys.values())
        dump = dumped(client)
    # The session as it goes on, and what is left of it under its first id: that leads on to the other.
    sealed = [(name, held[name]) for name in (b"fnote", b"~u", b"~to") for held in dump.values() if name in held]
    assert len(sealed) == 3
    fields = hkdf(key, "session-record")
    bases = [key, fields, *(hkdf(key, purpose) for purpose in ("session-cookie", "session-subject", "session-label"))]
    keys = {*bases, *(hmac.digest(base, text, "sha256") for base in bases for text in known(dump))}
    assert [name for name, value in sealed for one in keys if tried(value, name, one) is not None] == []

    bound = [parts(cookie[:9], b"shop", b"session-cookie", b".AIKernel.Session") for cookie in cookies]
    opener = AESGCM(hkdf(key, "session-cookie"))
    first, id = (opener.decrypt(cookie[9:21], cookie[21:], also) for cookie, also in zip(cookies, bound, strict=True))
    of = {b"~to": first, b"~u": id, b"fnote": id}
    opened = {name: tried(value, name, hmac.digest(fields, of[name], "sha256")) for name, value in sealed}
    assert (opened[b"~to"], opened[b"~u"]) == (id, SUBJECT.encode())
    assert SECRET.encode() in (opened[b"fnote"] or b"")
