"""Makes the files of the rules: `python -m ops.prometheus [--runbook ADDRESS --to DIRECTORY]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .files import files
from .rules import RUNBOOK


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ops.prometheus", description="Makes the files of the rules.")
    parser.add_argument("--runbook", default=RUNBOOK, help="your runbook's address; {alert} in it is the alert's name")
    parser.add_argument("--to", type=Path, help="a directory for both files (default: where they are shipped)")
    options = parser.parse_args(arguments)
    if not options.runbook.startswith(("http://", "https://")) or "{alert}" not in options.runbook:
        parser.error(
            f"--runbook must be an address with {{alert}} in it, got {options.runbook!r}. For example: "
            "https://wiki.example.com/aikcache#{alert}"
        )
    for path, text in files(options.runbook, options.to):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
