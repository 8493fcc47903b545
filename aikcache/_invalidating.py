"""The wrapper of a function that changes data: it ends, by name, what the change has made old.

Never in the way: a field that cannot be filled ends everything that its template could have named, and says so; the
function's result is returned all the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from . import _invalidation, _keys, _patterns
from ._call import Owner
from ._patterns import EVERYTHING, Ending, Target, Template
from ._trouble import log
from .errors import AikcacheError, ConfigError

P = ParamSpec("P")
R = TypeVar("R")
_WHEN = ("after", "before", "both")


def wrap(
    fn: Callable[P, R], cache: Callable[[], Owner], patterns: Sequence[str], tags: Sequence[str], when: str
) -> Callable[P, R]:
    """`fn`, ending `patterns` and `tags` around itself."""
    where = f"@invalidates on {fn.__qualname__}"
    if when not in _WHEN:
        raise ConfigError(f"{where}: when must be one of {', '.join(_WHEN)}, got {when!r}.")
    if isinstance(tags, str):
        raise ConfigError(f"{where}: a tags tuple is needed, as in tags=({tags!r},), got a str.")
    if not patterns and not tags:
        raise ConfigError(f"{where}: it names nothing to end. Give a pattern, as in @invalidates('search').")
    ends = _Ends(fn, where, patterns, tags, when)

    @functools.wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if when != "after":
            ends.end(cache(), args, kwargs)
        result = fn(*args, **kwargs)
        if when != "before":
            ends.end(cache(), args, kwargs, result=result)
        return result

    return wrapper


class _Ends:
    """What one decorated function ends."""

    def __init__(
        self, fn: Callable[..., Any], where: str, patterns: Sequence[str], tags: Sequence[str], when: str
    ) -> None:
        self._signature = inspect.signature(fn)
        self._name = fn.__qualname__
        names = list(self._signature.parameters)
        if when == "after" and "result" not in names:
            names.append("result")
        self._patterns = [Template(text, names, f"{where}: a pattern") for text in patterns]
        self._tags = [Template(text, names, f"{where}: a tag") for text in tags]
        for template in self._patterns:  # a pattern that is malformed is so with any argument
            self._hint(where, template, _patterns.resolve(template.fill_with("x")))

    def _hint(self, where: str, template: Template, target: Target) -> None:
        if target.kind == "glob":
            fields = template.fields() or ["…"]
            log.warning(
                "%s: %r is a glob, so each call sweeps all of Redis. A tag on the cached functions, as in "
                'tags=("%s:{%s}",), and the same in @invalidates, ends the same in one round trip.',
                where,
                template.text,
                template.text.split(":", 1)[0].strip("*?") or "name",
                fields[0],
            )

    def end(self, cache: Owner, args: Any, kwargs: Any, **result: object) -> None:
        try:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = {**result, **bound.arguments}
            targets = [self._target(cache, template, values) for template in self._patterns]
            tags, more = self._filled(cache, values)
            cache.end(_invalidation.ending(cache.tiers, [*targets, *more], tags))
        except AikcacheError as error:  # a name that only the arguments made impossible
            self._report(cache, EVERYTHING, error)
            cache.end(Ending(groups=(EVERYTHING,)))

    def _target(self, cache: Owner, template: Template, values: Mapping[str, object]) -> Target:
        try:
            return _patterns.resolve(template.fill(values, _keys.parameter))
        except AikcacheError as error:
            widest = _widest(template)
            self._report(cache, widest, error)
            return _patterns.resolve(widest)

    def _filled(self, cache: Owner, values: Mapping[str, object]) -> tuple[list[str], list[Target]]:
        tags = []
        for template in self._tags:
            try:
                tags.append(template.fill(values, _patterns.tag_text))
            except AikcacheError as error:
                self._report(cache, EVERYTHING, error)
                return [], [Target("group", EVERYTHING)]
        return tags, []

    def _report(self, cache: Owner, ended: str, error: AikcacheError) -> None:
        message = f"@invalidates on {self._name} could not name what to end, so {ended!r} was ended: {error}"
        cache.tiers.trouble.report(f"invalidates:{self._name}", message)


def _widest(template: Template) -> str:
    """The group that holds all that a template could name: its parts up to the first with a field."""
    fixed = []
    for part in template.fill_with("*").split(":", 2)[:2]:
        if "*" in part:
            break
        fixed.append(part)
    return ":".join(fixed) or EVERYTHING
