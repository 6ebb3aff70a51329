"""YAML as people mean it, read so that a file can only be right or wrong in one line.

Scalars are those of YAML 1.2's core schema: `1e-3` is a number, `1:30`, `2020-01-01`, `yes` and `off` are words. A key
that is given twice, aliases that stand for more than a config can hold, and deep nesting are errors that name the line.
"""

import re
import reprlib
import stat
from pathlib import Path
from typing import Any

import yaml

from neuroevo.errors import InputError

LARGEST = 2**20  # characters: a config has thousands, and PyYAML takes 16 s for as many
DEEPEST, MOST = 100, 2 * 10**6  # levels of nesting, and values with aliases spelled out
DIGITS = 400  # of a whole number

NESTED = re.compile(r"(?:[\[{]\s*|[-?] )" + f"{{{DEEPEST + 1}}}")  # over which PyYAML takes its time

_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxtuple, _short.maxset = 2, 3, 3, 3, 3
_short.maxstring, _short.maxlong, _short.maxother = 80, 40, 80


def show(value: Any) -> str:
    """Return a value as an error shows it: shortened, on one line."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return f"a whole number of {int(value.bit_length() * 0.30103) + 1} digits"
    return _short.repr(value)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own


class _Dumper(yaml.SafeDumper):
    """Quotes words that either version of YAML would take for something else."""


FLOAT = re.compile(r"^[-+]?(\.\d+|\d[\d_]*(\.\d*)?)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
for tag, pattern, first in (
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"^[-+]?\d[\d_]*$|^0x[\da-fA-F]+$|^0o[0-7]+$"), "-+0123456789"),
    ("float", FLOAT, "-+.0123456789"),
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"^<<$"), "<"),
):
    for kind in (_Loader, _Dumper):
        kind.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", pattern, list(first))


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if len(text) > DIGITS:
        raise yaml.constructor.ConstructorError(None, None, f"a whole number of {len(text):,} digits", node.start_mark)
    return int(text, 16 if text.startswith("0x") else 8 if text.startswith("0o") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def parse(text: str, source: str) -> Any:
    """Read YAML into plain values; InputError names the source and the line where it isn't any."""
    loader = None
    if len(text) > LARGEST:
        raise InputError(f"{source}: {len(text):,} characters; a config has {LARGEST:,} at most")
    try:
        if NESTED.search(text):
            raise RecursionError
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, source)
        return loader.construct_document(node)
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{source}: nested more than {DEEPEST} levels deep") from None
    except Exception as error:  # PyYAML lets through what its constructors raise, of whatever kind
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())[:200]
        raise InputError(f"{source}{where}: not YAML ({reason})") from None
    finally:
        if loader is not None:
            loader.dispose()


def parse_sections(text: str, source: str) -> dict[str, Any]:
    """Read YAML of sections as it is; InputError where it is none."""
    found = parse(text, source)
    if found is not None and not isinstance(found, dict):
        raise InputError(f"{source}: a config is a mapping of sections, not {show(found)}")
    return found or {}


def _check(root: yaml.Node, source: str) -> None:
    """See that no mapping has a key twice, and that all is of a size and depth that a config can have."""
    sizes: dict[int, int] = {}  # of a node with all below it, aliases spelled out; 0 while it is being counted

    def size(node: yaml.Node, depth: int) -> int:
        line = f"{source}, line {node.start_mark.line + 1}"
        if depth > DEEPEST:
            raise InputError(f"{line}: nested more than {DEEPEST} levels deep")
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise InputError(f"{line}: an alias that holds itself")
            return sizes[id(node)]
        sizes[id(node)] = 0
        total = 1
        if isinstance(node, yaml.SequenceNode):
            total += sum(size(inner, depth + 1) for inner in node.value)
        elif isinstance(node, yaml.MappingNode):
            given: dict[tuple[str, str], int] = {}
            for key, inner in node.value:
                at = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise InputError(f"{source}, line {at}: a key is a word, not a list or mapping")
                name = key.tag, key.value
                if name in given:
                    word = show(key.value)
                    raise InputError(f"{source}, line {at}: {word} is given twice, first in line {given[name]}")
                given[name] = at
                total += 1 + size(inner, depth + 1)
        if total > MOST:
            raise InputError(f"{line}: aliases that stand for more than {MOST:,} values")
        sizes[id(node)] = total
        return total

    size(root, 0)


def dump(value: Any) -> str:
    """Return plain values as YAML, keys in their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False))


def inline(value: Any) -> str:
    """Return a plain value as YAML on one line."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=2**20)).split("\n")[0]


def read(file: str) -> dict[str, Any]:
    """Read a YAML file of sections as it is; InputError where it can't be, or is none."""
    try:
        about = Path(file).stat()
        if not stat.S_ISREG(about.st_mode):
            kind = "folder" if stat.S_ISDIR(about.st_mode) else "device or pipe"
            raise InputError(f"{file}: not a file, but a {kind}")
        if about.st_size > 4 * LARGEST:  # of UTF-8
            raise InputError(f"{file}: {about.st_size:,} bytes; a config has {LARGEST:,} characters at most")
        text = Path(file).read_bytes().decode("utf-8-sig")
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: can't be read (not UTF-8 text: {error.reason} at byte {error.start})") from None
    except (OSError, ValueError) as error:  # ValueError: a name that can't be
        raise InputError(f"{file}: can't be read ({getattr(error, 'strerror', None) or error})") from None
    return parse_sections(text, file)
