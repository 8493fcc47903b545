"""The command `aikcache`: what an operator asks a running fleet, from a terminal, a script or a probe.

It stands on top of all other rooms, and none imports it. `command` lists the subcommands, one module each; `target`
says which server they ask, `output` how they answer, `failures` with what exit status. click and rich are imported
here alone, so the library works without them.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

_MISSING = "The command aikcache needs click and rich, which are not installed: pip install 'aikcache[cli]'."


def main() -> None:
    """Run the command with the arguments of this process, and end it with the command's exit status."""
    if find_spec("click") is None or find_spec("rich") is None:
        print(_MISSING, file=sys.stderr)
        sys.exit(2)
    from aikcache.cli.command import run

    run()
