"""The ring of keys that seals sessions and cached values, and rotates by itself.

May import `_engine` (where it is counted), `_redis` and what is below. Needs the package `cryptography`, so it is
imported only where it is used. Start at `keyring.py`, then `records.py` (the data in Redis) and `ciphers.py`.
"""
