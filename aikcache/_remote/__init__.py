"""What is kept in Redis: values, stamps and leases, and the scripts that change them.

May import `_redis`, `_keys` and what is below them. Start at `store.py`.
"""
