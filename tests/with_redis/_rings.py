"""Sessions that no slow machine makes fail."""

from __future__ import annotations

import functools

import pytest

from aikcache import CacheConfig
from aikcache.flask import sessions
from aikcache.sessions import SessionStore

from ._workers import PATIENCE


def make_rings_patient(patch: pytest.MonkeyPatch, seconds: float = PATIENCE) -> None:
    """Key rings made from here on wait so long for an answer: they have no argument for that."""
    patient = functools.partial(CacheConfig, timeout=seconds, connect_timeout=seconds)
    patch.setattr("aikcache._keyring.store.CacheConfig", patient)


def make_flask_patient(patch: pytest.MonkeyPatch) -> None:
    """So do the sessions of applications."""
    make_rings_patient(patch)
    patient = functools.partial(SessionStore, timeout=PATIENCE, connect_timeout=PATIENCE)
    patch.setattr(sessions, "SessionStore", patient)
