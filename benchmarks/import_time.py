"""How long `import aikcache` takes beyond a bare Python, and whether redis comes with it.

Wall time of whole processes, in turns: `python -c pass` against `python -c "import aikcache"`. Bytecode is compiled
before, as an installation has it, and kept in a temporary directory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aikcache
from benchmarks._harness.measure import Bar, Row, Settings

HEAVY = ("redis", "flask", "prometheus_client", "zstandard", "msgspec", "cryptography", "opentelemetry.sdk")
HOME = Path(aikcache.__file__).parent.parent


def run(settings: Settings) -> list[Row]:
    """The time, and which of the heavy modules come with it."""
    extra, bare = [], []
    with tempfile.TemporaryDirectory() as bytecode:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        _run("import aikcache", environ)
        for done in range(settings.rounds):
            settings.progress(done / settings.rounds)
            bare.append(_run("pass", environ)[0])
            extra.append(_run("import aikcache", environ)[0] - bare[-1])
        code = f"import sys, aikcache; print(*[m for m in {HEAVY!r} if m in sys.modules])"
        loaded = _run(code, environ)[1].split()
    milliseconds = statistics.median(extra) * 1000
    return [
        Row(
            question="import aikcache",
            figure=f"{milliseconds:.1f} ms (least {min(extra) * 1000:.1f})",
            rival=f"bare Python: {statistics.median(bare) * 1000:.1f} ms",
            measured=milliseconds,
            unit=" ms",
            bar=Bar(40, " ms"),
        ),
        Row(
            question="import aikcache: redis comes with it",
            figure=f"loaded: {', '.join(loaded) or 'none'} of {', '.join(HEAVY)}",
            measured=float("redis" in loaded),
            unit="",
            bar=Bar(0, ""),
        ),
    ]


def _run(code: str, environ: dict[str, str]) -> tuple[float, str]:
    """Seconds that a process takes for `code`, and what it prints."""
    command = [sys.executable, "-c", code]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=HOME, env=environ, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, done.stdout
