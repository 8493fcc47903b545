"""Random functions and random calls of them, by the compiled wrapper and by the generated one it stands before.

By hand, with a number of calls and a seed: python -m tests.decorators._oracle 10000000 1
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date, datetime
from random import Random
from types import FunctionType
from typing import Any
from unittest.mock import patch
from uuid import UUID

import aikcache
from aikcache import Cache
from aikcache._compiled import WHY_NOT
from aikcache._decorators import wrapper

CALLS_OF_ONE = 500
ANNOTATIONS = [
    "",
    ": str",
    ": int",
    ": UUID",
    ": bool",
    ": bytes",
    ": date",
    ": 'str | None'",
    ": float",
    ": 'Unknown'",
]


class Text(str):
    """A str that is none to a key."""


def values(random: Random) -> list[Any]:
    """Few, so that calls meet; some are equal and of other types."""
    return [
        "a", "b", "é", "", "1", 0, 1, -1, 2**61, 2**70, True, False, None, b"a", b"", 1.0, 0.0, -0.0, float("nan"),
        UUID(int=1), UUID(int=2**127), date(2020, 1, 1), datetime(2020, 1, 1), Text("a"), (1, "a"), ("a",), [1],
        {"a": 1}, object(), Text, "x" * random.choice([1, 1024, 1025]),
    ]  # fmt: skip


def header(random: Random, names: list[str]) -> str:
    """The parameters of a function, of every kind."""
    parts: list[str] = []
    only, keyword_only = random.choice([0, 0, 0, 1]), random.choice([99, 99, 99, 1, 2])
    defaults = False
    for i, name in enumerate(names):
        if i == keyword_only:
            parts.append(random.choice(["*", "*", "*rest"]))
            defaults = False
        defaults = (defaults and i < keyword_only) or random.random() < 0.25
        default = f" = {random.choice(['1', 'None', repr('d'), 'True', '2.5'])}" if defaults else ""
        parts.append(name + random.choice(ANNOTATIONS) + default)
        if i + 1 == only:
            parts.append("/")
    return ", ".join(parts + ["**more"] * (random.random() < 0.05))


def define(random: Random) -> tuple[Callable[..., Any], Callable[..., Any], list[str]]:
    """One function, cached twice: by both, and by the generated wrapper alone."""
    names = [f"p{i}" for i in range(random.choice([0, 1, 1, 1, 2, 2, 3, 5, 17]))]
    scope: dict[str, Any] = {"UUID": UUID, "date": date}
    exec(f"def f({header(random, names)}):\n    return repr(sorted(locals().items(), key=lambda pair: pair[0]))", scope)
    ignore = tuple(name for name in names if random.random() < 0.1)
    compiled = Cache().cached("p", ignore=ignore)(scope["f"])
    with ExitStack() as stack:
        stack.enter_context(patch.object(wrapper, "fast", None))
        generated = Cache().cached("p", ignore=ignore)(scope["f"])
    assert isinstance(generated, FunctionType)
    return compiled, generated, names


def call(random: Random, names: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments that mostly fit: by place and by name, some left out, some too many."""
    pool = values(random)
    given = [random.choice(pool[:3] if random.random() < 0.5 else pool) for _ in names]
    places = random.choice([len(names), len(names), random.randrange(len(names) + 1)])
    args = given[:places] + [1] * (random.random() < 0.03)
    kwargs = {name: value for name, value in zip(names[places:], given[places:], strict=True) if random.random() < 0.8}
    if random.random() < 0.05:
        kwargs[random.choice(["".join(["p", "0"]), "p1", "other", "self"])] = 1
    return args, dict(random.sample(list(kwargs.items()), len(kwargs)))


def outcome(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> tuple[str, str]:
    try:
        return "returned", function(*args, **kwargs)
    except TypeError as error:
        return "raised", str(error)


def compare(count: int, seed: int) -> int:
    """Make so many calls both ways; `AssertionError` at the first difference. How many were answered in C."""
    random, answered = Random(seed), 0
    for done in range(0, count, CALLS_OF_ONE):
        compiled, generated, names = define(random)
        for _ in range(min(CALLS_OF_ONE, count - done)):
            args, kwargs = call(random, names)
            found, expected = outcome(compiled, args, kwargs), outcome(generated, args, kwargs)
            assert found == expected, (seed, done, args, kwargs)
            if random.random() < 0.01:
                for function in (compiled, generated):
                    function.cache_clear()  # type: ignore[attr-defined]
        counts = [function.cache_info() for function in (compiled, generated)]  # type: ignore[attr-defined]
        assert counts[0] == counts[1], (seed, done, counts)
        if not isinstance(compiled, FunctionType):
            answered += counts[0].hits
    return answered


if __name__ == "__main__":
    logging.disable()
    calls, start = int(sys.argv[1]), int(sys.argv[2])
    print(f"Python {sys.version.split()[0]}, {aikcache.__file__}, compiled: {not WHY_NOT}. {WHY_NOT}")
    print(f"{calls} calls, {compare(calls, start)} hits of compiled wrappers, no difference")
