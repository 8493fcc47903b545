"""What the site has beyond the Markdown files: text that stands elsewhere, and links between the two.

A page says `<!-- put WHAT -->`, then what a reader on a plain code host sees instead, then `<!-- end -->`. WHAT is a
file of the repository, a section of one (`../README.md § Settings`), or one of the `TABLES`. So each text stands in one
place only. Links to files outside of `docs/` lead to their page, or become plain text where there is none. A link to
what does not exist is a warning, and `make docs` fails of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Protocol

import figures
import tables

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "README.md": "start.md",
}
"""Files of the repository that are pages of the site. What begins with `examples/` is on the page of examples."""
TABLES = {"settings": tables.settings, "errors": tables.error_table, "commands": tables.commands,
          "comparison": tables.comparison, "figures": figures.figures}  # fmt: skip

_PUT = re.compile(r"<!-- put (.+?) -->\n.*?<!-- end -->\n?", re.DOTALL)
_FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


class Sphinx(Protocol):
    """Of `sphinx.application.Sphinx` what is used here, so that mypy reads this where Sphinx is not installed."""

    def connect(self, event: str, callback: Any) -> int: ...


def expand(text: str, docname: str) -> str:
    """The page as the site shows it."""
    page = DOCS / f"{docname}.md"
    return _PUT.sub(lambda found: _put(found[1], page), _links(text, page.parent, page))


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    after = re.split(rf"^## {re.escape(heading)}\n", text, maxsplit=1, flags=re.MULTILINE)
    if len(after) != 2:
        raise LookupError(f"no section {heading!r}")
    return re.split(r"^## ", after[1], maxsplit=1, flags=re.MULTILINE)[0]


def _put(what: str, page: Path) -> str:
    if what in TABLES:
        return TABLES[what]()
    name, _, heading = what.partition(" § ")
    source = (page.parent / name).resolve()
    text = source.read_text(encoding="utf-8")
    return _links(section(text, heading) if heading else text, source.parent, page)


def _links(text: str, base: Path, page: Path) -> str:
    """A text whose links are relative to `base`, with links as `page` has to write them; code stays as it is."""
    parts, last = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_relinked(text[last : fence.start()], base, page), fence[0]]
        last = fence.end()
    return "".join([*parts, _relinked(text[last:], base, page)])


def _relinked(text: str, base: Path, page: Path) -> str:
    def link(found: re.Match[str]) -> str:
        shown, target, anchor = found[1], found[2], found[3] or ""
        file = (base / target).resolve()
        if not file.is_relative_to(DOCS) and file.exists():
            name = file.relative_to(ROOT).as_posix()
            if name in PAGES:
                file = DOCS / PAGES[name]
            elif name.startswith("examples/") and file.suffix == ".py":
                file, anchor = DOCS / "examples.md", "#" + file.stem.replace("_", "-")
            else:
                return shown
        return f"[{shown}]({Path(os.path.relpath(file, page.parent)).as_posix()}{anchor})"

    return _LINK.sub(link, text)


def _source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = expand(source[0], docname)


def _docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """The settings have a page of their own."""
    if name == "aikcache.CacheConfig":
        del lines[lines.index("Each setting with its default:") :]
        lines += ["The page of settings explains each of them.", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _source_read)
    app.connect("autodoc-process-docstring", _docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
