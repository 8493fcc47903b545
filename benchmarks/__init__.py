"""Measurements of aikcache against its rivals: `python -m benchmarks`. One question a file; see README.md."""
