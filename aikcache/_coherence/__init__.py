"""How processes hear of each other's invalidations, and what happens to those that Redis was not told.

May import `_remote` and what is below it, not `_local`. Start at `channel.py`, then `pending.py`.
"""
