"""Everything that is shipped, running together on loopback: Redis, exporters, Prometheus, Alertmanager, an application.

`stack` starts it, `faults` breaks it; tests/ops/test_live.py watches the alerts come and go, `make ops-demo` draws the
dashboard from what Prometheus has seen.
"""
