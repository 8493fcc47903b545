"""Everything under `ops/` is read by the programs that it is for, and by checks of what those do not see.

    python -m ops.check [NAME…]

A tool that is not installed is named and skipped; with AIKCACHE_REQUIRE_SERVERS=1, as in CI, that fails, but for what
npm has to bring, and for checkov.
Exit status: 0 when nothing was found.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from . import compose, dashboard, manifests, policies, rules, schema
from .tools import OPS, Missing, complaints

Check = Callable[[], list[str]]


def scripts() -> list[str]:
    """The pods' scripts are POSIX sh without a known pitfall."""
    return complaints("shellcheck", "-x", *sorted((OPS / "scripts").glob("*.sh")))


def yaml_files() -> list[str]:
    """Every YAML file is well formed: no key twice, no tab, no stray space."""
    changed = "document-start: disable, line-length: disable, indentation: {indent-sequences: consistent}"
    return complaints("yamllint", "--strict", "-d", f"{{extends: default, rules: {{{changed}}}}}", OPS, "compose.yaml")


CHECKS: dict[str, Check] = {
    "scripts": scripts,
    "yaml": yaml_files,
    "rules": rules.check,
    "dashboard": dashboard.check,
    "schema": schema.check,
    "manifests": manifests.check,
    "policies": policies.check,
    "compose": compose.check,
}


OPTIONAL = ("schema", "policies")


def main(names: list[str]) -> int:
    """Run the named checks, or all of them."""
    if unknown := sorted(set(names) - set(CHECKS)):
        print(f"There is no check {', '.join(unknown)}. There are: {', '.join(CHECKS)}.", file=sys.stderr)
        return 2
    required = os.environ.get("AIKCACHE_REQUIRE_SERVERS") == "1"
    bad = 0
    for name in names or CHECKS:
        begun = time.monotonic()
        try:
            found, missing = CHECKS[name](), ""
        except Missing as error:
            found, missing = [], str(error)
        verdict = (
            "FAILED" if found or (missing and required and name not in OPTIONAL) else "not checked" if missing else "ok"
        )
        print(f"{name:12} {verdict:11} {time.monotonic() - begun:5.1f} s  {missing}", flush=True)
        for line in found:
            print(f"    {line}")
        bad += verdict == "FAILED"
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
