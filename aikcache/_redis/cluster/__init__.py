"""Redis Cluster: the owners of slots, and exchanges that span nodes.

May import what `_redis` may. Start at `client.py`.
"""
