"""Draws the dashboard into docs/images: `python -m ops.demo [--seen FILE]`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from aikcache.testing import find_server
from ops.live.stack import missing

from .scenario import record

HERE = Path(__file__).parent
IMAGES = HERE.parents[1] / "docs" / "images"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ops.demo", description="Draws the dashboard into docs/images.")
    parser.add_argument("--port", type=int, default=16384, help="the first of sixteen free ones (default: 16384)")
    parser.add_argument("--scale", type=float, default=1.0, help="how long to live, 1 being six minutes")
    parser.add_argument("--keep", type=Path, help="where what Prometheus answered is kept")
    parser.add_argument("--seen", type=Path, help="draw this file of an earlier run")
    parser.add_argument("--packages", type=Path, help="a directory in which npm has installed package.json")
    options = parser.parse_args()
    if gone := [name for name in ("node", "npm", "chromium") if shutil.which(name) is None] + missing():
        print(f"Not installed: {', '.join(gone)}. Debian's packages have these names.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="aikcache-demo-") as scratch:
        seen = options.seen or record(Path(scratch) / "run", options.port, find_server("valkey"), options.scale)
        if options.keep:
            shutil.copy(seen, options.keep)
        draw(seen, options.packages or Path(scratch) / "page")
    return 0


def draw(seen: Path, packages: Path) -> None:
    """Bundles the page and takes its picture in both themes."""
    packages.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "page.jsx", "shoot.mjs"):
        shutil.copy(HERE / name, packages / name)
    if not (packages / "node_modules").exists():
        install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps"]
        subprocess.run(install, cwd=packages, check=True)
    IMAGES.mkdir(parents=True, exist_ok=True)
    subprocess.run(["node", "shoot.mjs", str(seen.resolve()), str(IMAGES)], cwd=packages, check=True)


if __name__ == "__main__":
    sys.exit(main())
