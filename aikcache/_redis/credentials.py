"""The login for new connections: from the URL, or from a redis-py credential provider, which is asked each time.

A provider may call a token service, so it runs in its own thread, which is abandoned when it takes too long. Other
callers that need credentials wait for the same answer. So a provider that hangs costs one thread, and a caller waits at
most `connect_timeout`.

A streaming provider renews its token by itself. It is also asked at each heartbeat, and a new token begins a new
generation of connections. Its `on_next` holds one callback, which belongs to the client; aikcache does not set it.

Threads: any. Failure: `RemoteError`, which names the provider's exception by its class: its text may quote a token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aikcache._concurrency.thread import Event, start
from aikcache._settings.secret import Secret
from aikcache._settings.url import Where
from aikcache.errors import RemoteError, RemoteTimeoutError, RemoteUnavailableError

_ONE = ""


class _Question:
    """One question to the provider, and the callers that wait for its answer."""

    def __init__(self) -> None:
        self.answered = Event()
        self.username: str | None = None
        self.password: Secret[str] | None = None
        self.error: RemoteError | None = None

    def run(self, credentials: Credentials) -> None:
        try:
            self._take(credentials.provider.get_credentials())
            credentials.renewed(self.password)
        except BaseException as error:  # the application's code (asyncio's CancelledError), in a thread of its own
            self.error = RemoteUnavailableError(f"the credential provider raised {type(error).__name__}.")
        finally:
            credentials.under_way.pop(_ONE, None)
            self.answered.set()

    def _take(self, given: Any) -> None:
        *name, password = (part.decode() if isinstance(part, bytes) else str(part) for part in given)
        self.username = name[0] if name else None
        self.password = Secret(password)


class Credentials:
    """The login of one server's connections."""

    def __init__(self, where: Where, on_new_token: Callable[[], object]) -> None:
        """`on_new_token` is called when a streaming provider gives another token than before."""
        self._where = where
        self._on_new_token = on_new_token
        self.provider: Any = None if where.provider is None else where.provider.reveal()
        self._streaming = bool(getattr(self.provider, "is_streaming", bool)())
        self._last: Secret[str] | None = None
        self.under_way: dict[str, _Question] = {}

    def login(self, deadline: float) -> Where:
        """Where to connect, and the login, before `deadline` (monotonic seconds). Raises `RemoteError`."""
        if self.provider is None:
            return self._where
        question = self._ask()
        if not question.answered.wait(max(deadline - time.monotonic(), 0)):
            raise RemoteTimeoutError("the credential provider gave no credentials within connect_timeout.")
        if question.error is not None:
            raise RemoteUnavailableError(str(question.error))
        return self._where._replace(username=question.username, password=question.password)

    def watch(self) -> None:
        """At a heartbeat: ask a streaming provider whether it has another token. Does not wait."""
        if self._streaming:
            self._ask()

    def renewed(self, token: Secret[str] | None) -> None:
        before, self._last = self._last, token
        if self._streaming and before is not None and before != token:
            self._on_new_token()

    def _ask(self) -> _Question:
        mine = _Question()
        try:
            question = self.under_way.setdefault(_ONE, mine)
            if question is mine:
                start(mine.run, "aikcache-credentials", self)
        except BaseException as error:
            if self.under_way.get(_ONE) is mine:
                self.under_way.pop(_ONE, None)
            if isinstance(error, RuntimeError):  # the interpreter is ending
                raise RemoteUnavailableError("no thread can ask the credential provider.") from error
            raise
        return question

    def forget(self) -> None:
        """Reset after a fork, in the child: the question's thread is the parent's."""
        self.under_way = {}
