"""A function of many ids, cached id by id: one round trip for the hits, one call for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from . import _many
from ._call import CachedCall, Owner
from ._glance import Missed
from ._local import Region
from ._policy import Policy
from ._request import MISSING
from ._signature import Signature
from .errors import ConfigError, InvalidKeyError


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
        self._one = CachedCall(fn, cache, region, signature, prefix, policy, tags)
        self._fn = fn
        self._cache = cache
        self._signature = signature
        self._ids = signature.bare[0]
        self._place = signature.names.index(self._ids)

    def wrapper(self) -> Callable[..., Any]:
        def cached_many(*args: Any, **kwargs: Any) -> dict[Any, Any]:
            return self.call(*self._one.bind(*args, **kwargs))

        return cached_many

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, Any]:
        tiers = self._one.tiers()
        ids = list(dict.fromkeys(args[self._place]))
        if tiers.closed or not ids:
            return self._run(ids, args, kwargs)
        one_by_one = [(*args[: self._place], one, *args[self._place + 1 :]) for one in ids]
        try:
            texts = [self._one.key_text(each, kwargs) for each in one_by_one]
            # By text: a `cached` function of this name may take ids of another type; its quick key must not be taken.
            begin = len(self._one.region.name) + 1
            local_keys = [(text[begin:],) for text in texts] if self._one.held(tiers) else []
            values = _many.glance(tiers, self._one.region, self._one.policy, texts, local_keys)
            rest = [i for i, value in enumerate(values) if type(value) is Missed]
            requests = []
            for i in rest:
                request = self._one.request(tiers, one_by_one[i], kwargs, (texts[i][begin:],), text=texts[i])
                request.relink, request.first = False, values[i].first
                request.load = partial(self._load_one, ids[i], args, kwargs)
                requests.append(request)
        except InvalidKeyError as error:
            replaced = (*args[: self._place], ids, *args[self._place + 1 :])
            return self._one.unkeyed(tiers, error, replaced, kwargs)  # type: ignore[no-any-return]

        def load(places: Sequence[int]) -> list[Any]:
            found = self._run([ids[rest[i]] for i in places], args, kwargs)
            return [found.get(ids[rest[i]], MISSING) for i in places]

        for i, value in zip(rest, _many.fetch(tiers, requests, load) if rest else (), strict=True):
            values[i] = value
        return {one: value for one, value in zip(ids, values, strict=True) if value is not MISSING}

    def _run(self, ids: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, Any]:
        found: dict[Any, Any] = self._fn(*args[: self._place], ids, *args[self._place + 1 :], **kwargs)
        return found

    def _load_one(self, one: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._run([one], args, kwargs).get(one, MISSING)
