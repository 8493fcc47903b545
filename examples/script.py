"""A script that is run again and again: what one run has computed, the next one finds, while a server keeps it.

All that name one directory by `embedded:///DIR` share a private server for as long as one of them runs. Here this
script runs itself a second time meanwhile, as a colleague's notebook or a cron job would. A script can wait longer for
its cache than a web page can, hence the time-outs.

Run: python examples/script.py [redis://localhost:6379/0]   (a private server without an argument)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

from aikcache import Cache


def run(url: str, name: str) -> None:
    with Cache(url, instance="script", timeout=20, connect_timeout=20) as cache:

        @cache.cached("letters", ttl=3600)
        def letters(text: str) -> dict[str, int]:
            print(f"the {name} run counts")
            return {letter: text.count(letter) for letter in sorted(set(text))}

        print(f"the {name} run has", letters("banana"))
        if name == "first":
            again = [sys.executable, __file__, url, "second"]
            print(subprocess.run(again, check=True, capture_output=True, text=True).stdout, end="")


def main(url: str | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        run(url or f"embedded://{directory}", "first")


if __name__ == "__main__":
    if sys.argv[2:] == ["second"]:
        run(*sys.argv[1:])
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else None)

# It prints:
#   the first run counts
#   the first run has {'a': 3, 'b': 1, 'n': 2}
#   the second run has {'a': 3, 'b': 1, 'n': 2}
