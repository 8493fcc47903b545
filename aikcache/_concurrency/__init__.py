"""Locks, threads, background work, the circuit breaker, and log lines: what every room may use.

May import `errors` alone. Start at `guard.py`.
"""
