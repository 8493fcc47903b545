"""How processes learn of each other's invalidations, and what happens to invalidations that Redis did not get.

May import `_remote` and what is below it, not `_local`. Start at `channel.py`, then `pending.py`.
"""
