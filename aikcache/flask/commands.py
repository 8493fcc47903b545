"""`flask cache …`: the commands of `aikcache`, asked of the application's own cache.

They are imported when one is asked for: an application that serves requests needs neither of their packages.
"""

from __future__ import annotations

from typing import Any

import click
from flask import Flask

from aikcache.flask import settings as _settings

_ELSEWHERE = ("demo", "completion")
"""Those that are about no application."""


class CacheCommands(click.Group):
    """The group `cache` of an application."""

    def __init__(self, app: Flask) -> None:
        super().__init__("cache", help="Look at this application's cache, and act on it.")
        self._app = app

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As `aikcache` has them."""
        from aikcache.cli.command import aikcache

        return [name for name in aikcache.commands if name not in _ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from aikcache.cli.command import aikcache

        return None if cmd_name in _ELSEWHERE else aikcache.commands.get(cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """The command, which finds the application's configuration where it looks for the environment."""
        from aikcache.cli.failures import errors_on_one_line
        from aikcache.cli.target import ask_application

        with errors_on_one_line():
            ask_application(ctx, _settings.of_cache(self._app), _settings.Configured(self._app).get)
            return super().invoke(ctx)
