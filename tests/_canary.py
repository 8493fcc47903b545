"""What an exception shows to whoever logs it with local variables, as error trackers do."""

from __future__ import annotations

import traceback
from collections.abc import Iterator


def shown(error: BaseException) -> str:
    """Text of an exception and of all behind it, and the local variables of the frames that are not the test's own."""
    parts: list[str] = []
    for one in chain(error):
        parts += [repr(one), str(one), *getattr(one, "__notes__", ())]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if "/tests/" not in frame.f_code.co_filename:
                parts += [f"{frame.f_code.co_name}: {name} = {_text(value)}" for name, value in frame.f_locals.items()]
    return "\n".join(parts)


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, and those that it names as its causes, whether they would be printed or not."""
    left, met = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) not in met:
            met.add(id(one))
            yield one
            left += [other for other in (one.__cause__, one.__context__) if other is not None]


def _text(value: object) -> str:
    try:
        return repr(value)
    except AttributeError:  # it is only half made
        return ""
