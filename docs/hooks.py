"""What the site has beside the files of this folder: pages made of the program's own tables, and files from above.

Links that lead out of the folder go to the page that such a file becomes; where there is none, their text stays.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files

import neuroevo
from neuroevo import config as settings
from neuroevo.bench.arms import ARMS
from neuroevo.cli.main import app
from neuroevo.config.reference import docstring

ROOT = Path(__file__).parents[1]
FROM_ABOVE = {"measurements.md": "bench/README.md", "changes.md": "CHANGELOG.md"}  # pages, and the files they are
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


ABOUT_COMMANDS = """# Commands

`neuroevo COMMAND --help` says what this page does. Exit status: 0 done, 1 failed on the way, 2 bad usage, config or
input (one line on stderr says what would be right), 130 after Ctrl-C and 143 after SIGTERM, with a checkpoint written.
"""
ABOUT_KEYS = """# Config keys

What `neuroevo list SECTION` says of every section. `--set section.key=value` sets one; a key that is unknown, or has no
effect beside the others, is an error that says what would be right. Options of parts are in [Parts](names.md).
"""
ABOUT_PARTS = """# Parts

What `neuroevo list` says of every table, and what each part says of itself. One of your own is named
`module:function` ([Adding a part](parts.md)).
"""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no files of this folder."""
    made = {"commands.md": commands(), "keys.md": keys(), "names.md": names(), "reference.md": reference()}
    for path, source in FROM_ABOVE.items():
        made[path] = (ROOT / source).read_text()
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Have the links of a page lead to pages of the site."""
    here = page.file.src_uri
    source = FROM_ABOVE.get(here, f"docs/{here}")
    pages = {origin: path for path, origin in FROM_ABOVE.items()}

    def relink(found: re.Match[str]) -> str:
        text, path, anchor = found[1], found[2], found[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = pages.get(target) or target.removeprefix("docs/")
        if target not in pages and not target.startswith("docs/"):
            return text
        return f"[{text}]({posixpath.relpath(inside, posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(relink, markdown)


def cell(text: str) -> str:
    """Return a text as it may stand in a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    """Return a text as code in a table, nothing of nothing."""
    return f"`{cell(text).replace('&lt;', '<')}`" if text else ""


def commands() -> str:
    """Return the page of all commands, from the program's own help."""
    group: Any = typer.main.get_command(app)
    lines = [ABOUT_COMMANDS]
    for name, command in group.commands.items():
        lines += [f"## {name}", "", command.help or "", ""]
        if command.params:
            lines += ["| argument or option | what it is | default |", "|---|---|---|"]
        for each in command.params:
            option = each.param_type_name == "option"
            taken = f" {each.metavar}" if option and each.metavar else ""
            spelt = (
                ", ".join([*each.opts, *each.secondary_opts]) + taken if option else each.metavar or each.name.upper()
            )
            usual = "" if each.default is None or each.default is False else str(each.default)
            lines += [f"| {code(spelt)} | {cell(each.help or '')} | {code(usual)} |"]
        lines += [""]
    return "\n".join(lines)


def table(keys: list[settings.Key], what: str = "key") -> list[str]:
    """Return keys, or what they are called, as a table."""
    head = [f"| {what} | type | default | meaning |", "|---|---|---|---|"]
    rows = [f"| `{key.name}` | {cell(key.type)} | {code(key.default)} | {cell(key.meaning)} |" for key in keys]
    return [*head, *rows, ""]


def keys() -> str:
    """Return the page of all keys of a config, as `neuroevo list` has them."""
    lines = [ABOUT_KEYS]
    for section, about in settings.sections().items():
        lines += [f"## {section or 'Outside every section'}", "", about, "", *table(settings.keys(section))]
    return "\n".join(lines)


def names() -> str:
    """Return the page of all parts with their options."""
    lines = [ABOUT_PARTS]
    for kind, parts in {**settings.TABLES, "arm": ARMS}.items():
        lines += [f"## {kind}", ""]
        for name, function in parts.items():
            options = settings.options(kind, name)
            lines += [f"### {kind}: {name}", "", docstring(function), ""]
            lines += table(options, "option") if options else []
    return "\n".join(lines)


def reference() -> str:
    """Return the page of the public names, each with its signature and docstring."""
    lines = [
        "# Public names",
        "",
        "What `import neuroevo as ne` has. How they go together is in [From Python](api.md).",
        "",
    ]
    for name in neuroevo.__all__:
        if not name.startswith("_"):
            found = getattr(neuroevo, name)
            lines += [f"::: {found.__module__}.{found.__qualname__}", ""]
    return "\n".join(lines)
