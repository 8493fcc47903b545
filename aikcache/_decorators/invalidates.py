"""The wrapper of a function that changes data: it invalidates, by name, what the change has made old.

It is never in the way: a field that cannot be filled invalidates what its template could have named, with a log line.
The function's result is returned all the same.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from aikcache._concurrency.reporter import log
from aikcache._decorators.registry import Registry
from aikcache._engine import invalidation
from aikcache._keys import patterns as _patterns
from aikcache._keys import rendering
from aikcache._keys.patterns import Target, Template
from aikcache._settings.checks import check_name
from aikcache.errors import AikcacheError, ConfigError

if TYPE_CHECKING:
    from aikcache._decorators.cached_function import Owner

P = ParamSpec("P")
R = TypeVar("R")
_WHEN = ("after", "before", "both")


def wrap(
    fn: Callable[P, R],
    cache: Callable[[], Owner],
    registry: Registry,
    patterns: Sequence[str],
    tags: Sequence[str],
    when: str,
) -> Callable[P, R]:
    """`fn`, which also invalidates `patterns` and `tags`."""
    where = f"@invalidates on {fn.__qualname__}"
    if when not in _WHEN:
        raise ConfigError(f"{where}: when must be one of {', '.join(_WHEN)}, got {when!r}.")
    if isinstance(tags, str):
        raise ConfigError(f"{where}: a tags tuple is needed, as in tags=({tags!r},), got a str.")
    if not patterns and not tags:
        raise ConfigError(f"{where}: it names nothing to invalidate. Give a pattern, as in @invalidates('search').")
    invalidator = _Invalidator(fn, where, patterns, tags, when, registry)
    unchecked = list(patterns)  # at the first call, for modules decorate in any order

    @functools.wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if unchecked:
            found = unchecked.copy()  # by the first calls, if they are made at once; it is reported once
            unchecked.clear()
            for pattern in found:
                registry.check_prefix(f"{where}:", pattern, cache().engine.local.regions)
        if when != "after":
            invalidator.end(cache(), args, kwargs)
        result = fn(*args, **kwargs)
        if when != "before":
            try:
                invalidator.end(cache(), args, kwargs, result=result)
            except BaseException:  # interrupted; but what the function has changed, it has changed
                invalidator.end(cache(), args, kwargs, result=result)
                raise
        return result

    return wrapper


class _Invalidator:
    """What one decorated function invalidates."""

    def __init__(
        self,
        fn: Callable[..., Any],
        where: str,
        patterns: Sequence[str],
        tags: Sequence[str],
        when: str,
        registry: Registry,
    ) -> None:
        self._registry = registry
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
                'tags=("%s:{%s}",), and the same in @invalidates, invalidates the same in one round trip.',
                where,
                template.text,
                template.text.split(":", 1)[0].strip("*?") or "name",
                fields[0],
            )

    def end(self, cache: Owner, args: Any, kwargs: Any, **result: object) -> None:
        values: dict[str, object] = {**result}
        # It binds nothing where another decorator adds arguments, for it is then that of the function below.
        with contextlib.suppress(TypeError):
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values.update(bound.arguments)
        targets = [target for template in self._patterns for target in self._targets(cache, template, values)]
        tags: list[str] = []
        for template in self._tags:
            try:
                tags.append(template.fill_tag(values))
            except AikcacheError as error:
                targets += self._all_tagged(cache, template, error)
        cache.end(invalidation.of(cache.engine, targets, tags))

    def _targets(self, cache: Owner, template: Template, values: Mapping[str, object]) -> list[Target]:
        try:
            filled = list(map(_patterns.resolve, self._registry.meant(template.fill(values, rendering.parameter))))
            for target in filled:
                if target.kind == "key":
                    cache.engine.keyspace.full(target.name)
            return filled
        except AikcacheError as error:
            widest = _fixed(template)
            self._report(cache, repr(widest) if widest else "nothing", error)
            return list(map(_patterns.resolve, self._registry.meant(widest))) if widest else []

    def _all_tagged(self, cache: Owner, template: Template, error: AikcacheError) -> list[Target]:
        """Whatever may carry a tag that begins like the template."""
        names = self._registry.tagged(template.fixed)
        self._report(cache, f"what has tags like {template.text!r} ({', '.join(names) or 'nothing here'})", error)
        return [Target("group", name) for name in names]

    def _report(self, cache: Owner, instead: str, error: AikcacheError) -> None:
        message = (
            f"@invalidates on {self._name} could not name what to invalidate, so it invalidated {instead}: {error}"
        )
        cache.engine.reporter.report(f"invalidates:{self._name}", message)


def _fixed(template: Template) -> str:
    """The group that holds all that a template could name: its parts up to the first with a field or a wildcard."""
    fixed = []
    for part in template.fill_with("*").split(":", 2)[:2]:
        try:
            check_name("a pattern's part", part)
        except ConfigError:  # a field or a wildcard is in it, or what no name has
            break
        fixed.append(part)
    return ":".join(fixed)
