"""What is kept in this process: entries by region, and the policy that evicts them.

May import `_keys` and what is below it. Start at `tier.py`.
"""
