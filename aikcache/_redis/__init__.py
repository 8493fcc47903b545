"""How Redis is reached: connections to one server, behind Sentinel, or of a cluster (`cluster/`).

May import `_codec` (for the size of a frame), `_embedded` and what is below them. Start at `pool.py`.
"""
