"""What a decorated function is: `cached`, `cached_many`, `invalidates`, and the wrapper that answers a call.

May import `_engine` and what is below it. Start at `decorators.py`, then `wrapper.py` for what a hit costs.
"""
