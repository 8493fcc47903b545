"""The wrapper that stands in for a cached function: generated, so that a local hit costs as little as Python allows.

For `def get(resource_id: UUID, deep: bool = False)` this is compiled:

    def get(resource_id, deep=<its default>):
        key = ((resource_id.int, deep) if type(resource_id) is UUID and type(deep) is bool
               else (type(resource_id), type(deep), resource_id.int if type(resource_id) is UUID else resource_id, …)
               if type(resource_id) in distinct and type(deep) in distinct
               else other((resource_id, deep), {}))
        now = clock()
        try:
            entry = table[key]
        except KeyError:
            pass
        else:
            if entry.until > now < trusted_until:
                entry.hits += 1
                return entry.value
            return serve(entry, …)
        return miss(key, …)  # outside the handler, so that what the function raises carries no KeyError as its context

It has the function's own signature, so the interpreter binds the arguments, and `get(i)`, `get(i, False)` and
`get(resource_id=i)` are one entry. Values stand alone in a key only where their types are the expected ones, of
annotations or defaults: `1`, `1.0` and `True` are equal and must not share an entry. Other values of distinct types
stand behind their types, and a call with anything else goes through `other`.

`table` and `trusted_until` are globals of the wrapper's own, which its region replaces: the one when all it holds is
invalidated, the other at each heartbeat. From the look-up to `entry.hits += 1` there is no call, so the interpreter
cannot switch threads: a hit is counted on an entry that is still in the table, and counts are exact. So the clock is
read before. A process that is paused after that may answer with what was current when the call began, never with
older.
(CPython with its lock; measured ns per hit in one run: functools.lru_cache 38, this 107.)

Where the extension is in, `aikcache._fast.Wrapper` stands before this: the same steps in C as far as a hit needs them,
with a table and `trusted_until` of its own. It calls this with all that it does not answer.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from keyword import iskeyword
from math import inf
from time import monotonic
from types import FunctionType
from typing import Any
from unicodedata import normalize
from uuid import UUID

from aikcache._compiled import fast
from aikcache._decorators.signature import DISTINCT, Arguments, Signature
from aikcache._local.region import CLOCK, TABLE, TRUSTED_UNTIL
from aikcache.errors import ConfigError

_EXPRESSION: dict[type, str] = {UUID: "{}.int"}
_N = "_aikcache_"
"""Before every name that is not the function's own."""


def make(
    signature: Signature,
    miss: Callable[..., Any],
    serve: Callable[..., Any],
    other: Callable[..., Any],
    clock: Callable[[], float] = monotonic,
    skips: Callable[..., bool] | None = None,
    beside: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """A function like `signature.fn` that answers from a table what it can and asks `miss` and `serve` for the rest.

    The table is empty until a region is `read_by` it: which one is known, and whether, when its cache is.
    Calls for which `skips` is true go to `beside`.
    """
    fn = signature.fn
    names: dict[str, Any] = {
        "clock": clock, "miss": miss, "serve": serve, "other": other, "type": type, "KeyError": KeyError,
        "distinct": frozenset(DISTINCT), "UUID": UUID,
    }  # fmt: skip
    header, passed = _parameters(signature, names)
    key = _key(signature, names, passed)
    skip = ""
    if skips is not None:
        names["skips"], names["beside"] = skips, beside
        skip = f"    if {_N}skips({passed}):\n        return {_N}beside({passed})\n"
    source = f"""
def {_N}call({header}):
{skip}    {_N}key = {key}
    {_N}now = {_N}clock()
    try:
        {_N}entry = {TABLE}[{_N}key]
    except {_N}KeyError:
        pass
    else:
        if {_N}entry.until > {_N}now < {TRUSTED_UNTIL}:
            {_N}entry.hits += 1
            return {_N}entry.value
        return {_N}serve({_N}entry, {passed})
    return {_N}miss({_N}key, {passed})
"""
    # The names are globals of a namespace of its own: free variables would be copied into the frame at every call.
    scope: dict[str, Any] = {TABLE: {}, TRUSTED_UNTIL: -inf, **{_N + n: v for n, v in names.items()}}
    place = "".join(filter(str.isprintable, f"<aikcache wrapper of {fn.__module__}.{fn.__qualname__}>"))
    exec(compile(source, place, "exec"), scope)
    made = scope.pop(f"{_N}call")
    if fn.__name__.isidentifier():  # as stack traces show it
        made.__code__ = made.__code__.replace(co_name=fn.__name__)
    wrapper: Callable[..., Any] = functools.update_wrapper(made, fn)
    if fast is None or clock is not monotonic or skips is not None or not signature.plain:
        return wrapper
    return _compiled(signature, wrapper)


def _compiled(signature: Signature, made: Callable[..., Any]) -> Callable[..., Any]:
    """What answers in C what it can, and asks the generated wrapper for the rest."""
    parameters = list(signature.sig.parameters.values())
    if fast is None or len(parameters) > fast.MAX_PARAMETERS:
        return made
    # In the order of calls by place; a `__signature__` may hold them in no other.
    kinds = [p.kind for p in parameters]
    only = kinds.count(inspect.Parameter.POSITIONAL_ONLY)
    quick = signature.quick_types()
    wrapper = fast.Wrapper(
        made,
        tuple(sys.intern(p.name) for p in parameters),
        only,
        only + kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD),
        {p.name: p.default for p in parameters if p.default is not p.empty},
        tuple(signature.names.index(name) for name in quick),
        tuple(quick.values()),
        DISTINCT,
    )
    return functools.update_wrapper(wrapper, signature.fn)


def readers(wrapper: Callable[..., Any]) -> tuple[Any, ...]:
    """All of a wrapper that looks into a region's table."""
    return (wrapper,) if isinstance(wrapper, FunctionType) else (wrapper, wrapper._aikcache_function)  # type: ignore[attr-defined]


def set_clock(reader: Any, clock: Callable[[], float]) -> bool:
    """Let one of them compare with this clock. False: it knows another one alone."""
    if isinstance(reader, FunctionType):
        reader.__globals__[CLOCK] = clock
        return True
    return clock is monotonic


def is_function(thing: object) -> bool:
    """Whether something is a plain function, or stands in for one."""
    return isinstance(thing, FunctionType) or (fast is not None and type(thing) is fast.Wrapper)


def binder(signature: Signature) -> Callable[..., Arguments]:
    """A function of the same parameters that gives its arguments in their one order; `TypeError` as the call's own."""
    names: dict[str, Any] = {}
    header, passed = _parameters(signature, names)
    scope: dict[str, Any] = {_N + n: v for n, v in names.items()}
    exec(f"def {_N}bind({header}):\n    return {passed}", scope)
    bind: Callable[..., Arguments] = scope[f"{_N}bind"]
    bind.__name__ = bind.__qualname__ = signature.fn.__name__  # as a `TypeError` of the call's own names it
    return bind


def _parameters(signature: Signature, names: dict[str, Any]) -> tuple[str, str]:
    """The wrapper's parameters, and the expression that passes its arguments on: a tuple and a dict, in one order."""
    header, positional, keywords = [], [], []
    kinds = list(signature.sig.parameters.values())
    for i, p in enumerate(kinds):
        _check_parameter(signature.fn, p.name)
        default = ""
        if p.default is not p.empty:
            names[f"default_{p.name}"] = p.default
            default = f"={_N}default_{p.name}"
        if p.kind is p.VAR_POSITIONAL:
            header.append(f"*{p.name}")
            positional.append(f"*{p.name}")
        elif p.kind is p.VAR_KEYWORD:
            header.append(f"**{p.name}")
            keywords.append(f"**{p.name}")
        elif p.kind is p.KEYWORD_ONLY:
            if not any(h.startswith("*") for h in header):
                header.append("*")
            header.append(p.name + default)
            keywords.append(f"{p.name!r}: {p.name}")
        else:
            header.append(p.name + default)
            positional.append(p.name)
            after = kinds[i + 1].kind if i + 1 < len(kinds) else None
            if p.kind is inspect.Parameter.POSITIONAL_ONLY and after is not p.kind:
                header.append("/")
    return ", ".join(header), f"({''.join(n + ', ' for n in positional)}), {{{', '.join(keywords)}}}"


def _check_parameter(fn: Callable[..., Any], name: str) -> None:
    """A name that stands in the source as itself; a `__signature__` may hold others."""
    usual = name.isidentifier() and normalize("NFKC", name) == name and not iskeyword(name) and name != "__debug__"
    if not usual or name.startswith(_N):
        raise ConfigError(
            f"@cached on {fn.__qualname__}: a parameter must have a name that Python takes as it is and that does not "
            f"begin with {_N!r}, got {name[:80]!r}. Rename it."
        )


def _key(signature: Signature, names: dict[str, Any], passed: str) -> str:
    if not signature.plain:
        return f"{_N}other({passed})"
    checks, values, marks, marked = [], [], [], []
    for i, (name, kind) in enumerate(signature.quick_types().items()):
        names[f"type_{i}"] = kind
        mark = f"{_N}type({name})"
        checks.append(f"{mark} is {_N}type_{i}")
        values.append(_EXPRESSION.get(kind, "{}").format(name))
        marks.append(mark)
        marked.append(f"{name}.int if {mark} is {_N}UUID else {name}")
    if not values:
        return "()"
    quick = values[0] if len(values) == 1 else f"({', '.join(values)})"
    distinct = " and ".join(f"{mark} in {_N}distinct" for mark in marks)
    return (
        f"{quick} if {' and '.join(checks)} else ({', '.join(marks + marked)}) if {distinct} else {_N}other({passed})"
    )
