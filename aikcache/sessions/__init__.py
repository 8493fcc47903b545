"""Sessions in Redis, and the ring of keys that seals them, which rotates by itself.

    from aikcache.sessions import KeyRing, SessionStore

    ring = KeyRing("rediss://cache:6379/0", instance="shop")  # AIKCACHE_MASTER_KEY wraps the keys
    store = SessionStore("rediss://cache:6379/0", ring=ring, instance="shop")

May import `_remote` and what is below it; only `flask` imports it. Needs the extra `sessions`. Start at `keyring.py`,
then `ring_records.py` (what lies in Redis) and `ciphers.py` (what is computed); for sessions at `store.py`, then
`session.py` (what a request sees), `commit.py` (what it leaves behind) and `records.py`.
"""

from aikcache.sessions.commit import Drop, Keep, Set
from aikcache.sessions.keyring import KeyRing, RingHealth
from aikcache.sessions.middleware import SessionMiddleware
from aikcache.sessions.ring_records import KeyInfo
from aikcache.sessions.session import Session
from aikcache.sessions.store import SessionHealth, SessionInfo, SessionStore

__all__ = [
    "Drop",
    "Keep",
    "KeyInfo",
    "KeyRing",
    "RingHealth",
    "Session",
    "SessionHealth",
    "SessionInfo",
    "SessionMiddleware",
    "SessionStore",
    "Set",
]
