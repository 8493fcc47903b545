"""The reference is complete: every setting, error, command and public name is on its page."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path

import click
import pytest

import aikcache
from aikcache.cli.command import aikcache as command

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import site_pages  # noqa: E402
import tables  # noqa: E402

API = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
MODULES = ("aikcache.sessions", "aikcache.flask", "aikcache.django", "aikcache.doctor", "aikcache.metrics",
           "aikcache.prometheus", "aikcache.tracing", "aikcache.testing")  # fmt: skip


def shown(page: str) -> str:
    """A page as the site shows it."""
    return str(site_pages.expand((DOCS / f"{page}.md").read_text(encoding="utf-8"), page))


def test_every_setting_is_explained_with_its_default() -> None:
    """The page has the fields of `CacheConfig` in their order, and the defaults are the real ones."""
    fields = dataclasses.fields(aikcache.CacheConfig)
    settings = tables.read_settings()
    assert [setting.name for setting in settings] == [field.name for field in fields]
    page = shown("reference/settings")
    for setting, field in zip(settings, fields, strict=True):
        assert f"| `{setting.name}`" in page
        assert len(setting.meaning) > 20
        if field.default is not dataclasses.MISSING:
            default = setting.default.replace(",", "").strip('"')
            assert str(field.default) == default or float(str(field.default)) == float(default), setting.name


def test_every_error_is_explained() -> None:
    """Each class of `aikcache.errors`, with its own words."""
    page = shown("reference/errors")
    for name in aikcache.errors.__all__:
        assert f"| `{name}` |" in page
        assert inspect.getdoc(getattr(aikcache.errors, name)), name


def commands(group: click.Group, path: str = "aikcache") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, one in group.commands.items():
        found += commands(one, f"{path} {name}") if isinstance(one, click.Group) else [(f"{path} {name}", one)]
    return found


def test_every_command_and_option_is_listed() -> None:
    """Each command has its section with all its options, and a row in the overview of docs/cli.md."""
    page, overview = shown("reference/commands"), (DOCS / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+)\n((?:.|\n)*?)(?=^## |\Z)", page, re.MULTILINE))
    every = commands(command)
    assert list(sections) == [name for name, _ in every]
    for name, one in every:
        assert f"| `{name}" in overview
        for parameter in one.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0] in sections[name], (name, parameter.opts)


def test_every_public_name_is_in_the_reference_of_the_api() -> None:
    """By its own directive, or with all of its module; the errors are on their page."""
    named = set(re.findall(r"^\.\. auto(?:class|function):: aikcache\.(\w+)$", API, re.MULTILINE))
    modules = re.findall(r"^\.\. automodule:: (.+)$", API, re.MULTILINE)
    assert named == set(aikcache.__all__) - set(aikcache.errors.__all__)
    assert modules == list(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_everything_that_a_module_gives_says_what_it_is(name: str) -> None:
    """Each public class, function and method has a docstring."""
    module = importlib.import_module(name)
    public = getattr(module, "__all__", None) or [
        each for each, value in vars(module).items() if getattr(value, "__module__", None) == name and each[0] != "_"
    ]
    silent = [
        f"{each}.{part}"
        for each in public
        for part, value in {"": getattr(module, each), **_methods(getattr(module, each))}.items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value)
    ]
    assert silent == []


def _methods(value: object) -> dict[str, object]:
    """Of a class of ours, what it defines itself."""
    if not inspect.isclass(value):
        return {}
    return {name: part for name, part in vars(value).items() if not name.startswith("_") and inspect.isfunction(part)}


def test_the_methods_of_a_cache_say_what_they_do() -> None:
    """Also those of a decorated function."""
    for kind in (aikcache.Cache, aikcache.CachedFunction):
        silent = [name for name in dir(kind) if name[0] != "_" and callable(getattr(kind, name))
                  and not inspect.getdoc(getattr(kind, name))]  # fmt: skip
        assert silent == []


def test_the_comparison_has_only_figures_that_were_measured() -> None:
    """Its table has the rows of the benchmarks' own in which another library was measured; the page itself has none."""
    written = (DOCS / "comparison.md").read_text(encoding="utf-8")
    assert re.findall(r"\d[\d.]* (?:ns|µs|ms|s|bytes)\b", written) == []
    page = shown("comparison")
    measured = (DOCS.parent / "benchmarks" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*? \| .*? \| (.+ .+?) \| .*? \|$", page, re.MULTILINE)
    assert len(rows) > 15
    assert [other for other in rows if f"| {other} |" not in measured] == []
    for library in ("functools.lru_cache", "dogpile", "Flask-Caching", "bare get"):
        assert library in page


def test_text_from_elsewhere_takes_its_links_along() -> None:
    """A link leads to the page of the file, becomes plain text where there is none, and stays what it was in code."""
    text = "[a](../ARCHITECTURE.md#words) [b](metrics.md) [c](../compose.yaml) [d](https://x.y)\n```\n[e](../x)\n```\n"
    assert site_pages.expand(text, "cli") == (
        "[a](architecture.md#words) [b](metrics.md) c [d](https://x.y)\n```\n[e](../x)\n```\n"
    )
    assert site_pages.expand("[a](../../examples/catalog.py)", "guides/x") == "[a](../examples.md#catalog)"
    put = "# T\n<!-- put ../README.md § Documents -->\nelsewhere\n<!-- end -->\nrest\n"
    page = site_pages.expand(put, "cli")
    assert "elsewhere" not in page
    assert "[docs/metrics.md](metrics.md)" in page
    assert page.endswith("rest\n")
    with pytest.raises(LookupError, match="no section 'Nothing'"):
        site_pages.section("# T\n## Words\nx\n", "Nothing")
