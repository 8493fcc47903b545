"""How a Redis Cluster is reached: who owns which slot, and exchanges that span nodes.

May import what `_redis` may. Start at `client.py`.
"""
