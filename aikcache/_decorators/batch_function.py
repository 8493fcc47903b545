"""A function of many ids, cached id by id: one round trip for the hits, one call for the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import partial
from typing import TYPE_CHECKING, Any

from aikcache._decorators.cached_function import CALL, CachedCall
from aikcache._decorators.signature import Signature
from aikcache._engine import many
from aikcache._engine.batch import Batch
from aikcache._engine.call import MISSING, Attempt, carry_out
from aikcache._engine.fast_path import FastPathMiss
from aikcache._engine.load import answer
from aikcache._engine.policy import Policy
from aikcache._keys import rendering
from aikcache._local.region import Region
from aikcache.errors import ConfigError, InvalidKeyError

if TYPE_CHECKING:
    from aikcache._decorators.cached_function import Owner
    from aikcache._engine.engine import Engine

MAX_COLLIDING = 1000
"""Different ids of one hash that a call may have."""


class BatchCall:
    """How one function of many ids is cached. Its first parameter (after an ignored `self`) holds the ids."""

    def __init__(
        self,
        fn: Callable[..., Any],
        cache: Callable[[], Owner],
        region: Region,
        signature: Signature,
        prefix: str,
        policy: Policy,
        tags: Sequence[str],
    ) -> None:
        ids = signature.sig.parameters[signature.bare[0]] if signature.bare else None
        if ids is None or ids.kind is ids.KEYWORD_ONLY:
            why = "there is none" if ids is None else "it cannot be keyword-only"
            raise ConfigError(f"@cached_many on {fn.__qualname__}: the first parameter must be the ids; {why}.")
        if signature.receiver is not None:
            name = signature.receiver
            raise ConfigError(
                f"@cached_many on {fn.__qualname__}: {name!r} is no ids; leave it out: ignore=({name!r},)."
            )
        self._one = CachedCall(fn, cache, region, signature, prefix, policy, tags)
        self.fn = fn
        self._cache = cache
        self._signature = signature
        self._ids = signature.bare[0]
        self._place = signature.names.index(self._ids)
        self.tags_begin = self._one.tags_begin

    def wrapper(self) -> Callable[..., Any]:
        def cached_many(*args: Any, **kwargs: Any) -> dict[Any, Any]:
            return self.call(*self._one.bind(*args, **kwargs))

        setattr(cached_many, CALL, self)
        return cached_many

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, Any]:
        engine = self._one.engine()
        ids = list(args[self._place])
        if len(ids) > MAX_COLLIDING and (error := _collisions(ids)) is not None:
            return self._run(ids, args, kwargs) if engine.passive else self._unkeyed(engine, error, ids, args, kwargs)
        ids = list(dict.fromkeys(ids))
        if engine.passive or not ids:
            found = self._run(ids, args, kwargs)
            if not engine.closed:
                misses, loads = len(ids), len(found) if isinstance(found, Sized) else 0
                self._one.region.counters.misses += misses
                self._one.region.counters.loads += loads
            return found
        extra: dict[Any, Any] = {}  # what the function gives of its own accord
        before, after = args[: self._place], args[self._place + 1 :]
        try:
            texts = self._one.key_texts(ids) or [self._one.key_text((*before, one, *after), kwargs) for one in ids]
            # By text: a `cached` function of this name may take ids of another type; its quick key must not be taken.
            begin = len(self._one.region.name) + 1
            local_keys = [(text[begin:],) for text in texts] if self._one.kept_locally(engine) else []
            looked = engine.local.changes
            values = many.fast_read(engine, self._one.region, self._one.policy, texts, local_keys)
            rest = [i for i, value in enumerate(values) if type(value) is FastPathMiss]
            attempts = []
            for i in rest:
                call = self._one.call(engine, (*before, ids[i], *after), kwargs, (texts[i][begin:],), text=texts[i])
                call = call._replace(relink=False, load=partial(self._load_one, ids[i], extra, args, kwargs))
                seen_at = looked if values[i].looked else -1
                attempts.append(Attempt(call, engine.clock(), values[i].first, seen_at))
        except InvalidKeyError as error:
            return self._unkeyed(engine, error, ids, args, kwargs)

        def run(places: Sequence[int]) -> list[Any]:
            found = self._load([ids[rest[i]] for i in places], args, kwargs)
            extra.update(found)
            return [found.get(ids[rest[i]], MISSING) for i in places]

        if rest:
            batch = Batch(engine, attempts, run, together=True)
            for i, value in zip(rest, carry_out(answer(batch), run), strict=True):
                values[i] = value
        asked = {one: value for one, value in zip(ids, values, strict=True) if value is not MISSING}
        known = frozenset(ids)
        return asked | {one: value for one, value in extra.items() if one not in known}

    def _unkeyed(
        self, engine: Engine, error: InvalidKeyError, ids: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[Any, Any]:
        replaced = (*args[: self._place], ids, *args[self._place + 1 :])
        return self._one.unkeyed(engine, error, replaced, kwargs)  # type: ignore[no-any-return]

    def _run(self, ids: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, Any]:
        found: dict[Any, Any] = self.fn(*args[: self._place], ids, *args[self._place + 1 :], **kwargs)
        return found

    def _load(self, ids: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[Any, Any]:
        found: object = self._run(ids, args, kwargs)
        if not isinstance(found, Mapping):
            name, kind = self.fn.__qualname__, type(found).__name__
            raise TypeError(f"{name} must return a dict of the ids that there are and their values, got {kind}.")
        return found

    def _load_one(self, one: object, extra: dict[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = self._load([one], args, kwargs)
        extra.update(found)
        return found.get(one, MISSING)


def _collisions(ids: list[Any]) -> InvalidKeyError | None:
    """What is wrong with ids that were chosen for their hash: a dict of them takes time in the square of their number.

    Hashes of numbers are no secret: those with one remainder by 2**61 - 1 have the same.
    """
    hashed, count = Counter(map(hash, ids)).most_common(1)[0]
    if count <= MAX_COLLIDING or len({rendering.parameter(one) for one in ids if hash(one) == hashed}) <= MAX_COLLIDING:
        return None
    return InvalidKeyError(f"more than {MAX_COLLIDING} of the ids have the same hash.")
