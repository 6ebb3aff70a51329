"""What a config can have: sections with their keys, parts with their options, as rows to print, and recipes."""

import shutil
import sys
import textwrap
from pathlib import Path

from neuroevo import config
from neuroevo.cli import inspection
from neuroevo.cli.inspection import Rows
from neuroevo.config import Key
from neuroevo.config.reference import REQUIRED, docstring
from neuroevo.config.section import near
from neuroevo.errors import InputError, printable
from neuroevo.storage import files

RECIPES = "recipe"
TOP = "top"  # what the keys outside every section are listed as


def describe(key: str | None) -> list[tuple[str, Rows]]:
    """Return tables on a section, a key `section.key`, a kind of part, a part `kind.name`, or on all there is.

    InputError names the nearest where nothing is called so.
    """
    sections = {name or TOP: about for name, about in config.sections().items()}
    kinds = dict(inspection.names())
    if key is None:
        return [("section", [*sections.items()]), *kinds.items(), (RECIPES, [*config.recipes().items()])]
    if key == RECIPES:
        return [(RECIPES, [*config.recipes().items()])]
    if key in sections or key in kinds:
        keys = config.keys("" if key == TOP else key) if key in sections else []
        found = [(f"{key}: {sections[key]}", [row(each) for each in keys])] if key in sections else []
        return found + ([(f"names of {key}" if found else key, kinds[key])] if key in kinds else [])
    section, _, last = key.rpartition(".")
    known = {name: {each.name: each for each in config.keys("" if name == TOP else name)} for name in sections}
    if last in known.get(section or TOP, {}):
        return [(key, [row(known[section or TOP][last])])]
    kind, _, name = key.partition(".")
    if name in config.TABLES.get(kind, {}):
        about = docstring(config.TABLES[kind][name]).split("\n")[0]
        return [(f"{key}: {about}", [row(each) for each in config.options(kind, name)])]
    every = [f"{name}.{each}" for name, keys in known.items() for each in keys if name != TOP]
    there = [*dict.fromkeys([*sections, *kinds, RECIPES])]
    raise InputError(f"list: nothing is called {key}{near(key, [*there, *every])}; there are: {', '.join(there)}")


def lines(title: str, rows: Rows) -> list[str]:
    """Return a title and two columns as lines, which fit into the terminal where standard output is one."""
    width = max((len(name) for name, _ in rows), default=0)
    columns = max(shutil.get_terminal_size().columns, width + 24) if sys.stdout.isatty() else None
    found = [title] if columns is None else textwrap.wrap(title, columns)
    for name, value in rows:
        first, *more = [value] if columns is None else textwrap.wrap(value, columns - width - 4) or [""]
        found += [f"  {name:<{width}}  {first}", *(" " * (width + 4) + line for line in more)]
    return found


def row(key: Key) -> tuple[str, str]:
    """Return a key, and what it means with its type and default."""
    usual = REQUIRED if key.default == REQUIRED else f"default {key.default}"
    return key.name, f"{key.meaning} ({key.type}; {usual})".strip()


def begin(recipe: str, out: str | None) -> str:
    """Return a recipe's text, or write it to a new file and return a line that names it.

    InputError where there is no such recipe, or `out` is there already; RunError where it can't be written.
    """
    text = config.write_recipe(recipe)
    if out is None:
        return text
    files.check_new(out, "--out")
    with files.new(Path(out)):
        files.replace(Path(out), text.encode())
    return printable(out) + "\n"
