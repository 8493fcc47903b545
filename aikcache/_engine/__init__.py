"""How a call is answered: from the local tier, from Redis, from another call's load, or by running the function.

May import `_coherence`, `_local` and what is below them. Start at `fast_path.py`, then `load.py`.
`engine.py` puts it together.
"""
