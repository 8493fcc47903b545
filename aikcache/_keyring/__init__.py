"""The ring of keys that seals sessions and cached values, which rotates by itself.

May import `_engine` (where it is counted), `_redis` and what is below. Needs the package `cryptography`, so it is
imported only where it is used. Start at `keyring.py`, then `records.py` (what lies in Redis) and `ciphers.py`.
"""
