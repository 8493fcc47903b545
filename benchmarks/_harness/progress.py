"""One line on how far a run is, on stderr: a bar when somebody watches, else a line for each question that is done."""

from __future__ import annotations

import time
from typing import TextIO

WIDTH = 24
EVERY = 0.1  # seconds between two drawings: drawing must not be what is measured


class Progress:
    """The progress of `total` questions, one after the other."""

    def __init__(self, total: int, out: TextIO) -> None:
        self._total, self._out = total, out
        self._watched = out.isatty()
        self._asked, self._name, self._began, self._drawn = 0, "", 0.0, 0.0

    def ask(self, name: str) -> None:
        """A question begins."""
        self._asked, self._name, self._began, self._drawn = self._asked + 1, name, time.monotonic(), 0.0
        self.part(0.0)

    def part(self, share: float) -> None:
        """The measurement under way is done to a share; a question may make several."""
        now = time.monotonic()
        if self._watched and now - self._drawn >= EVERY:
            self._drawn = now
            bar = "#" * round(share * WIDTH)
            text = f"[{self._asked}/{self._total}] {self._name:14} {bar:.<{WIDTH}} {now - self._began:4.0f} s"
            print(f"\r{text}\x1b[K", end="", file=self._out, flush=True)

    def answered(self) -> None:
        """The question has its answer."""
        line = f"{self._name} {time.monotonic() - self._began:.1f} s"
        print(f"\r{line}\x1b[K" if self._watched else line, file=self._out, flush=True)
