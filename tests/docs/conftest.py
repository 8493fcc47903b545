"""What pages and examples need to say the same on a machine that is busy."""

from __future__ import annotations

import inspect

import pytest

from aikcache import CacheConfig

PATIENT = {"timeout": 20.0, "connect_timeout": 20.0, "lease_wait": 120.0, "max_staleness": 60.0}


@pytest.fixture(autouse=True)
def patient_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and key rings wait longer than they would by default: a slow machine changes no answer."""
    defaults = inspect.unwrap(CacheConfig.__init__).__kwdefaults__ or {}
    for name, seconds in PATIENT.items():
        assert name in defaults
        monkeypatch.setitem(defaults, name, seconds)
