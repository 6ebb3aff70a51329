"""Configs to begin with, and their text with what each key means beside it."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neuroevo.config import reference
from neuroevo.config.parts import TABLES
from neuroevo.config.section import near
from neuroevo.config.yamlfile import dump, inline, read
from neuroevo.errors import InputError

FOLDER = Path(__file__).parent / "recipes"
WIDTH = 120  # of a line


def recipes() -> dict[str, str]:
    """Return the names of all recipes, the default first, with what each is for: the comment at its file's top."""
    names = sorted((file.stem for file in FOLDER.glob("*.yaml")), key=lambda name: (name != "default", name))
    return {name: _file(name).read_text().split("\n")[0].removeprefix("# ") for name in names}


def recipe(name: str) -> dict[str, Any]:
    """Return the raw config of a recipe; InputError names the nearest where there is none of that name."""
    known = recipes()
    if name not in known:
        raise InputError(f"init: no recipe is called {name}{near(name, known)}; there are: {', '.join(known)}")
    return read(str(_file(name)))


def write_recipe(name: str) -> str:
    """Return a recipe as YAML in which a comment says of each section and each key what it means."""
    raw = recipe(name)
    command = "tune" if "tune" in raw else "run"
    about = [*_comment(recipes()[name], ""), f"# To start it: neuroevo {command} FILE.yaml"]
    return "\n\n".join(["\n".join(about), *("\n".join(_section(key, value, key)) for key, value in raw.items())]) + "\n"


def _file(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


def _section(key: str, value: Any, path: str, indent: str = "") -> Iterator[str]:
    """Yield the lines of a section, and of the sections in it."""
    known = reference.sections()
    if path not in known or not isinstance(value, Mapping):
        yield from _key(key, value, path, indent)
        return
    yield from _comment(known[path], indent)
    yield f"{indent}{key}:"
    for name, inner in value.items():
        yield from _section(str(name), inner, f"{path}.{name}", indent + "  ")
    others = [each.name for each in [*reference.keys(path), *_options(path, value)] if each.name not in value]
    if others:
        yield from _comment(f"more keys (neuroevo list {path}): {', '.join(others)}", indent + "  ")


def _options(path: str, value: Mapping[str, Any]) -> list[reference.Key]:
    """Return the options of the part that a section is, where it names one of a table."""
    name = str(value.get("name"))
    return reference.options(path, name) if name in TABLES.get(path, {}) else []


def _key(key: str, value: Any, path: str, indent: str) -> Iterator[str]:
    """Yield the lines of one key."""
    yield from _comment(reference.meaning(path), indent)
    section, _, last = path.rpartition(".")
    if last == "name" and value in TABLES.get(section, {}):
        yield from _comment(f"{value}: {reference.docstring(TABLES[section][value]).splitlines()[0]}", indent)
    line = f"{indent}{key}: {inline(value)}"
    yield from [line] if len(line) <= WIDTH else [indent + each for each in dump({key: value}).splitlines()]


def _comment(text: str, indent: str) -> Iterator[str]:
    """Yield a text as comments of lines that aren't too long."""
    for line in textwrap.wrap(text, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False):
        yield f"{indent}# {line}"
