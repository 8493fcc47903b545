"""Whether a server refuses what processes would write, which explains figures and hits that are not there."""

from __future__ import annotations

from aikcache._cache import Cache
from aikcache._redis.reply import ErrorReply
from aikcache.cli.failures import with_hint
from aikcache.errors import RemoteError


def refusal(cache: Cache) -> str | None:
    """Why the server takes no writes, and the way out; None: it takes them, or does not let this user ask.

    It asks by the write of a heartbeat, which changes nothing.
    """
    remote = cache.engine.remote
    assert remote is not None
    connections = remote.connections
    try:
        replies = connections.exchange([remote.commands.probe(tag) for tag in connections.hash_tags()])
        why = next((f"the server refuses: {reply}" for reply in replies if isinstance(reply, ErrorReply)), None)
    except RemoteError as error:
        why = str(error)
    return None if why is None or "NOPERM" in why else with_hint(why)
