"""A private server for tests, demos and single hosts.

May import `_concurrency`, `_settings` and `errors`. Start at `attach.py`.
"""
