"""Rules for Prometheus: what wakes somebody, from one source."""
