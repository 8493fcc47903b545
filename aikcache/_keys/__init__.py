"""From calls to keys, and from patterns to groups.

May import `_codec` and what is below it. Start at `rendering.py`.
"""
