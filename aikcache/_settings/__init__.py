"""Settings, URLs and secrets: what a cache is configured with, checked.

May import `errors` alone. Start at `config.py`.
"""
