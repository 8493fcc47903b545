"""The dashboard's JSON as a TypeScript literal, held against Grafana's own types by `tsc --strict`.

npm brings the types and the compiler, 24 MB. Without npm, or out of reach of its registry, this is not checked.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ops.grafana.dashboard import FILE

from .tools import Missing, tool

VERSIONS = {"@grafana/schema": "11.6.0", "typescript": "5.7.3"}
CONFIGURATIONS = {
    "timeseries": "TimeSeriesPanelCfg",
    "stat": "StatPanelCfg",
    "gauge": "GaugePanelCfg",
    "bargauge": "BarGaugePanelCfg",
}
COMPOSABLE = "../node_modules/@grafana/schema/dist/esm/raw/composable"
FLAGS = (
    *("--strict", "--noEmit", "--skipLibCheck", "--target", "es2022"),
    *("--module", "esnext", "--moduleResolution", "bundler"),
)
WITHIN, INSTALLED_WITHIN = 300.0, 90.0
# Grafana reads an enum's values, and fills in options that are left out.
HEADER = """
import type { Dashboard, Panel, RowPanel, VariableModel, FieldConfigSource } from '@grafana/schema';
type Read<T> = unknown extends T ? T : T extends string ? `${T}` : T extends number | boolean | null | undefined ? T
    : T extends Array<infer Item> ? Read<Item>[] : { [Key in keyof T]: Read<T[Key]> };
type Some<T> = T extends Array<infer Item> ? Some<Item>[] : T extends object ? { [Key in keyof T]?: Some<T[Key]> } : T;
type Whole = Omit<Dashboard, 'panels' | 'templating'>;
type Of<Options, Custom> = Omit<Panel, 'options' | 'fieldConfig'> & { id: number; options: Some<Read<Options>> }
    & { fieldConfig: Omit<FieldConfigSource, 'defaults'> & { defaults: Omit<FieldConfigSource['defaults'], 'custom'>
        & { custom?: Custom } } };
type Row = Omit<RowPanel, 'panels'>;
type Variable = VariableModel & { query?: string | { query: string; refId: string } };
"""


def check() -> list[str]:
    """What tsc says of the dashboard."""
    return complaints(json.loads(FILE.read_text(encoding="utf-8")))


def complaints(board: dict[str, Any]) -> list[str]:
    """By line of the literal; nothing when it is as Grafana's types want it."""
    packages = installed()
    with tempfile.TemporaryDirectory(dir=packages) as directory:
        path = Path(directory) / "board.ts"
        path.write_text(literal(board), encoding="utf-8")
        command = [tool("node"), str(packages / "node_modules" / "typescript" / "bin" / "tsc"), *FLAGS, str(path)]
        done = subprocess.run(command, cwd=packages, capture_output=True, text=True, timeout=WITHIN, check=False)
    return [line.split("/")[-1] for line in done.stdout.splitlines() if ": error " in line]


def literal(board: dict[str, Any]) -> str:
    """A constant of its type for the whole, each variable, row and panel."""
    lines = [HEADER]
    for kind, name in CONFIGURATIONS.items():
        where = f"{COMPOSABLE}/{kind}/panelcfg/x/{name}_types.gen"
        lines.append(f"import type * as {kind} from '{where}';")
    whole = {key: value for key, value in board.items() if key not in ("panels", "templating")}
    lines.append(f"export const whole: Read<Whole> = {json.dumps(whole)};")
    for number, variable in enumerate(board["templating"]["list"]):
        lines.append(f"export const variable{number}: Read<Variable> = {json.dumps(variable)};")
    for panel in board["panels"]:
        kind = panel["type"]
        custom = "timeseries.FieldConfig" if kind == "timeseries" else "never"
        type_ = "Row" if kind == "row" else f"Of<{kind}.Options, {custom}>"
        lines.append(f"export const panel{panel['id']}: Read<{type_}> = {json.dumps(panel)};")
    return "\n".join(lines)


def installed() -> Path:
    """Where npm has put the packages, beside this Python; installed on first use."""
    npm = tool("npm")
    directory = Path(sys.prefix) / "grafana-schema"
    wanted = json.dumps({"private": True, "dependencies": VERSIONS})
    stamp = directory / "installed.json"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "package.json").write_text(wanted, encoding="utf-8")
    retries = ("--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")  # npm's own waits are 10 and 60 s
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *retries]
    try:
        subprocess.run(command, cwd=directory, capture_output=True, timeout=INSTALLED_WITHIN, check=True)
    except (OSError, subprocess.SubprocessError):
        raise Missing("npm's registry gave no @grafana/schema") from None
    stamp.write_text(wanted, encoding="utf-8")
    return directory
