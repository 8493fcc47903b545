"""Errors: their tree, their messages, and that they survive pickling."""

from __future__ import annotations

import copy
import pickle

import pytest

import aikcache
from aikcache import errors
from aikcache.errors import AikcacheError, EncodeError, RemoteError, RemoteTimeoutError, SessionError

TREE: dict[str, tuple[type, ...]] = {
    "AikcacheError": (Exception,),
    "ConfigError": (AikcacheError, ValueError),
    "InvalidKeyError": (AikcacheError, ValueError),
    "EncodeError": (AikcacheError, TypeError),
    "DecodeError": (AikcacheError, ValueError),
    "RemoteError": (AikcacheError,),
    "RemoteTimeoutError": (RemoteError,),
    "RemoteUnavailableError": (RemoteError,),
    "SessionError": (AikcacheError,),
    "SessionUnavailableError": (SessionError,),
    "SessionTooLargeError": (SessionError,),
    "SealError": (SessionError,),
    "KeyRingError": (SessionError,),
}


def test_the_list_of_errors_is_complete() -> None:
    """`errors.__all__` names every exception class of the module, and the package exports each."""
    found = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert found == set(errors.__all__) == set(TREE)
    assert found <= set(aikcache.__all__)


@pytest.mark.parametrize("name", TREE)
def test_each_error_has_its_place_in_the_tree(name: str) -> None:
    """Every error descends from the root, and from the built-in that callers would catch."""
    assert getattr(errors, name).__bases__ == TREE[name]
    assert getattr(aikcache, name) is getattr(errors, name)


@pytest.mark.parametrize("name", TREE)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_pickling(name: str, protocol: int) -> None:
    """Class, message, notes and attributes come back from every pickle protocol, and from a copy."""
    error = getattr(errors, name)("no such thing")
    error.add_note("seen twice")
    for twin in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(twin) is type(error)
        assert (str(twin), twin.__notes__) == ("no such thing", ["seen twice"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_encode_error_keeps_its_path(protocol: int) -> None:
    """The path goes with the error through pickling, and does not stand in the message twice."""
    error = EncodeError("result[1]: Foo cannot be stored", "result[1]")
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert (twin.path, str(twin)) == ("result[1]", "result[1]: Foo cannot be stored")
    assert EncodeError("no").path == "result"


def test_a_timeout_of_redis_is_no_builtin_timeout() -> None:
    """Code that waits for something of its own with `except TimeoutError` does not catch Redis's by accident."""
    assert not issubclass(RemoteTimeoutError, TimeoutError)
    assert not issubclass(RemoteError, OSError)
