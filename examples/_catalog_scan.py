"""Reads the Python environment: which modules there are, and what each one's source says.

`find_modules` walks the standard library and site-packages without importing anything. `scan` reads one file: its
size, lines and digest, the first paragraph of its docstring, and its imports as dotted names, relative ones resolved.
`scan_all` does so for many, in two processes, since `ast` is where the time goes.

A file that does not parse is catalogued without docstring and imports: environments do contain such files.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.metadata
import inspect
import multiprocessing
import os
import platform
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from _catalog_model import ResourceType

_SUMMARY_CHARACTERS = 600
# Test suites would be half of the catalog, and nobody looks them up.
_SKIPPED = frozenset({"__pycache__", "test", "tests", "idle_test"})
# Below this, starting processes costs more than they save.
_PARALLEL_FROM = 300


@dataclass(frozen=True, slots=True)
class Found:
    """A module that exists, before anything of it was read; `root` is empty for built-in modules."""

    name: str
    type: ResourceType
    root: str
    path: str


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's target, from the most specific name it may mean to the least."""

    targets: tuple[str, ...]
    kind: str
    line: int


@dataclass(frozen=True, slots=True)
class Scanned:
    """What one file says."""

    size: int
    lines: int
    sha256: str
    summary: str
    imports: tuple[Import, ...]


def roots() -> list[Path]:
    """The directories whose modules are catalogued, in the order in which Python would look."""
    shared = sysconfig.get_config_var("DESTSHARED")
    paths = [sysconfig.get_path("stdlib"), shared, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    distinct = dict.fromkeys(Path(path).resolve() for path in paths if path)
    return [path for path in distinct if path.is_dir()]


def find_modules(limit: int | None = None) -> list[Found]:
    """Every module of this environment, those nearest to the top first, at most `limit`."""
    found = {name: Found(name, ResourceType.BUILTIN, "", "") for name in sys.builtin_module_names}
    for root in roots():
        for module in _walk(root, root, ""):
            found.setdefault(module.name, module)
    ordered = sorted(found.values(), key=lambda module: (module.name.count("."), module.name))
    return ordered[:limit]


def _walk(root: Path, directory: Path, package: str) -> Iterator[Found]:
    with os.scandir(directory) as entries:
        children = sorted(entries, key=lambda entry: entry.name)
    for child in children:
        if child.is_dir():
            if child.name.isidentifier() and child.name not in _SKIPPED:
                yield from _walk(root, Path(child.path), f"{package}{child.name}.")
            continue
        name, kind = _classify(child.name, package)
        if kind is not None:
            yield Found(name, kind, str(root), Path(child.path).relative_to(root).as_posix())


def _classify(filename: str, package: str) -> tuple[str, ResourceType | None]:
    """The dotted name and type of the module in this file; no type where the file is no module."""
    stem = filename.partition(".")[0]
    if not stem.isidentifier():
        return "", None
    if any(filename == stem + suffix for suffix in importlib.machinery.EXTENSION_SUFFIXES):
        return package + stem, ResourceType.EXTENSION
    if filename != f"{stem}.py":
        return "", None
    if stem == "__init__":
        return package.rstrip("."), ResourceType.PACKAGE if package else None
    return package + stem, ResourceType.PROGRAM if stem == "__main__" else ResourceType.MODULE


def distributions() -> dict[str, tuple[str, str]]:
    """For each file that an installed distribution lists, that distribution's name and version."""
    owners: dict[str, tuple[str, str]] = {}
    for distribution in importlib.metadata.distributions():
        owner = (distribution.name, distribution.version)
        for file in distribution.files or ():
            if file.suffix != ".pyc":
                owners[file.as_posix()] = owner
    return owners


def owner_of(module: Found, owners: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """The distribution and version that brought a module; the interpreter's own when none lists it."""
    return owners.get(module.path, ("Python", platform.python_version()))


def locate(path: str) -> Path | None:
    """The file behind a resource's relative path, or None: built in, or uninstalled since."""
    candidates = (root / path for root in roots()) if path else ()
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def scan(file: Path | None, name: str, kind: ResourceType) -> Scanned:
    """Read one module's file, and parse it when it is source."""
    content = file.read_bytes() if file else b""
    digest = hashlib.sha256(content).hexdigest()
    if kind in (ResourceType.EXTENSION, ResourceType.BUILTIN):
        return Scanned(len(content), 0, digest, "", ())
    tree = _parse(content)
    package = name if kind is ResourceType.PACKAGE else name.rpartition(".")[0]
    return Scanned(len(content), content.count(b"\n"), digest, _summary(tree), tuple(_imports(tree, package)))


def _parse(content: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            return ast.parse(content)
        except (SyntaxError, ValueError, RecursionError):
            return ast.Module(body=[], type_ignores=[])


def _summary(tree: ast.Module) -> str:
    """The first paragraph of the docstring, on one line."""
    paragraph = inspect.cleandoc(ast.get_docstring(tree) or "").partition("\n\n")[0]
    # A source file may hold lone surrogates in an escape; no database and no cache can store them.
    return " ".join(paragraph.split())[:_SUMMARY_CHARACTERS].encode("utf-8", "replace").decode()


def _imports(tree: ast.Module, package: str) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(_parents(alias.name), "import", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            for alias in node.names if base else ():
                yield Import((f"{base}.{alias.name}", *_parents(base)), "from", node.lineno)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that a `from` statement names; empty when it reaches above the top."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, node.module] if node.module else kept) if kept else ""


def _parents(name: str) -> tuple[str, ...]:
    """`a.b.c`, `a.b`, `a`: an import of the first is one of the longest that the catalog knows."""
    parts = name.split(".")
    return tuple(".".join(parts[:length]) for length in range(len(parts), 0, -1))


def scan_all(modules: list[Found]) -> Iterator[Scanned]:
    """Scan many modules, in their order, yielding each as soon as it and those before it are done."""
    if len(modules) < _PARALLEL_FROM:
        yield from map(_scan_found, modules)
        return
    # Spawned, not forked: forking a process that may have threads is the one thing macOS and Linux agree to dislike.
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_scan_found, modules, chunksize=32)


def _scan_found(module: Found) -> Scanned:
    file = Path(module.root, module.path) if module.root else None
    return scan(file, module.name, module.type)
