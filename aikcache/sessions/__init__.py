"""Sessions in Redis, and the ring of keys that seals them, which rotates by itself.

    from aikcache.sessions import KeyRing, SessionStore

    ring = KeyRing("rediss://cache:6379/0", instance="shop")  # AIKCACHE_MASTER_KEY wraps the keys
    store = SessionStore("rediss://cache:6379/0", ring=ring, instance="shop")

May import `_keyring` and what is below it; only frameworks import it. Needs the extra `sessions`. Start at `store.py`,
then `session.py` (what a request sees), `commit.py` (what it writes) and `records.py` (the data in Redis).
"""

from aikcache._keyring.keyring import KeyRing
from aikcache._keyring.records import KeyInfo, RingHealth
from aikcache.sessions.cookies import Drop, Keep, Set
from aikcache.sessions.middleware import SessionMiddleware
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
