"""Tables as Markdown: settings, errors and commands from the code, the comparison from the benchmarks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from aikcache import CacheConfig, errors
from aikcache.cli.command import aikcache as command

ROOT = Path(__file__).resolve().parents[2]
_ENTRY = re.compile(r"^(\w+) \((.+?)\): (.*?)(?=^\w+ \(|\Z)", re.DOTALL | re.MULTILINE)


class Setting(NamedTuple):
    """A setting, as the docstring of `CacheConfig` has it."""

    name: str
    default: str
    meaning: str


def read_settings() -> list[Setting]:
    """Every setting that the docstring of `CacheConfig` explains, in its order."""
    text = inspect.getdoc(CacheConfig) or ""
    entries = text.split("Each setting with its default:\n\n", 1)[1]
    return [Setting(name, default, " ".join(meaning.split())) for name, default, meaning in _ENTRY.findall(entries)]


def settings() -> str:
    """Each setting with its default and its meaning."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, default, meaning in read_settings():
        text = meaning[:1].upper() + meaning[1:]
        if len(default) > 20:
            text, default = f"{text} By default: `{default}`.", "…"
        lines.append(f"| `{name}` | `{default}` | {_cell(text)} |")
    return "\n".join(lines) + "\n"


def errors_by_root() -> list[type[errors.AikcacheError]]:
    """Every error, each after the one that it is a kind of."""
    return sorted(
        (getattr(errors, name) for name in errors.__all__), key=lambda kind: [c.__name__ for c in _line(kind)]
    )


def _line(kind: type) -> list[type]:
    return [c for c in reversed(kind.__mro__) if issubclass(c, errors.AikcacheError)]


def error_table() -> str:
    """Each error, what it is a kind of, and what it means."""
    lines = ["| error | is a | meaning |", "|---|---|---|"]
    for kind in errors_by_root():
        bases = ", ".join(base.__name__ for base in kind.__bases__)
        lines.append(f"| `{kind.__name__}` | {bases} | {_cell(inspect.getdoc(kind) or '')} |")
    return "\n".join(lines) + "\n"


def walk(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of the tree that does something, with its name."""
    for name, one in group.commands.items():
        if isinstance(one, click.Group):
            yield from walk(one, (*path, name))
        else:
            yield (*path, name), one


def commands() -> str:
    """Each command with its arguments and options, as `--help` shows them."""
    parts = []
    for path, one in walk(command):
        name = " ".join((command.name or "", *path))
        with click.Context(one, info_name=name, max_content_width=84, terminal_width=84) as context:
            parts.append(f"## {name}\n\n```text\n{one.get_help(context).strip()}\n```\n")
    return "\n".join(parts)


_RIVALS = ("lru_cache", "cachetools", "cachebox", "theine", "dogpile", "Flask-", "diskcache", "by hand", "bare ")


def comparison() -> str:
    """The rows of the benchmarks' table in which something else than aikcache was measured."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    lines = ["| question | aikcache | others | ratio |", "|---|---|---|---|"]
    topic = question = figure = shown = ""
    for row in re.findall(r"^\| (.+) \|$", text.split("## Last figures", 1)[1].split("\n## ", 1)[0], re.MULTILINE):
        asked, _, measured, other, ratio, *_ = (cell.strip() for cell in row.split("|"))
        if asked:
            topic = topic if asked.startswith("…") else re.split("[,:]", asked)[0]
            question, figure = asked.replace("…", f"{topic},", 1), measured
        if any(name in other for name in _RIVALS) and "bare Python" not in other:
            lines.append(f"| {'' if question == shown else question} | {measured or figure} | {other} | {ratio} |")
            shown = question
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
