"""Values to bytes and back, without pickle, and the frame around them.

May import `_concurrency`, `_settings` and `errors`. Start at `codec.py`, then `frame.py`.
"""
