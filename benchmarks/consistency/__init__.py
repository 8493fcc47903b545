"""Is any read staler than the guarantees allow? `python -m benchmarks.consistency`; start reading at `__main__.py`."""
