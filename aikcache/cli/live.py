"""A view that is drawn again and again until Ctrl-C, and leaves the terminal as it was."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import click
from rich.console import RenderableType
from rich.live import Live

from aikcache.cli.output import console

Wait = Callable[[float], object]

interval_option = click.option("--interval", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True,
                               metavar="SECONDS", help="How long a view stands.")  # fmt: skip


def watch(draw: Callable[[], RenderableType], interval: float, wait: Wait = time.sleep) -> None:
    """Draw until Ctrl-C or SIGTERM. Without a terminal the views follow one another."""
    shown = console()
    with contextlib.suppress(KeyboardInterrupt), ended_by_sigterm():
        if not shown.is_terminal:
            while True:
                shown.print(draw())
                wait(interval)
        view = draw()  # what fails at once fails without a flicker of the screen
        try:
            with Live(console=shown, screen=True, auto_refresh=False) as live:
                while True:
                    live.update(view, refresh=True)
                    wait(interval)
                    view = draw()
        finally:  # Ctrl-C while the screen was being taken
            shown.set_alt_screen(enable=False)
            shown.show_cursor()


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what is inside by an exception, so that the terminal is restored, also for the first process of a
    container, which the system spares."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
