"""Every key of a config with its type, default and meaning, as the models and the parts' functions have them."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from neuroevo.config.meanings import meaning_of
from neuroevo.config.parts import DEFAULT_NAMES, TABLES, PartSection, schema
from neuroevo.config.schema import PARTS, SECTIONS
from neuroevo.config.section import LARGEST_FLOAT, LARGEST_SEED, MOST, Section
from neuroevo.config.text import METRIC_KEYS
from neuroevo.config.values import MOST_SAMPLES
from neuroevo.config.yamlfile import inline

REQUIRED = "required"
ALGORITHM = "Which algorithm proposes populations, with its options."
LIMITS = {float(MOST), float(LARGEST_SEED), float(MOST_SAMPLES), LARGEST_FLOAT}  # of every number, and so not said
WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


class Key(NamedTuple):
    """A key of a section, or an option of a part."""

    name: str
    type: str
    default: str  # as YAML has it, REQUIRED where there is none
    meaning: str


def sections() -> dict[str, str]:
    """Return each section by where it is in a config ("" is the top), with the first sentence of what it is for."""
    found = {}
    for name, model in SECTIONS.items():
        found[name] = PARTS.get(name) or (inspect.getdoc(model) or "").split("\n")[0]
        if name == "genome":
            found["algorithm"] = ALGORITHM
    return found


def keys(section: str) -> list[Key]:
    """Return the keys of a section: its own, and those of the parts and sections in it."""
    found = [] if section == "algorithm" else list(_fields(section, SECTIONS[section]))
    held = {key.rpartition(".")[2]: meaning for key, meaning in PARTS.items() if key.rpartition(".")[0] == section}
    parts = [Key(name, _kind(name), _usual(f"{section}.{name}"), meaning) for name, meaning in held.items()]
    return [*parts, *found]


def options(kind: str, name: str) -> list[Key]:
    """Return the options of a part in a table; a benchmark's arm has none."""
    if kind not in TABLES:
        return []
    marks, model = schema(kind, name, kind)
    fields = model.model_fields.items()
    found = {key: Key(key, _words(field), _default(field), meaning_of(kind, name, key)) for key, field in fields}
    for key, (inner, usual) in marks.items():
        found[key] = Key(key, f"part ({inner})", usual or "null", meaning_of(kind, name, key))
    order = inspect.signature(TABLES[kind][name]).parameters
    return [found[key] for key in order if key in found]


def docstring(function: Callable[..., Any]) -> str:
    """Return what a part's function says of itself, "" where nothing."""
    return inspect.getdoc(function) or ""


def meaning(key: str) -> str:
    """Return what a key of a config means, "" where it is none or an option of a part."""
    section, _, name = key.rpartition(".")
    if section in SECTIONS or section == "algorithm":
        return next((each.meaning for each in keys(section) if each.name == name), "")
    return ""


def _fields(section: str, model: type[Section]) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        of_part = issubclass(model, PartSection) and name == model.holds
        key = "name" if of_part else field.alias or name
        usual = _usual(f"{section}.{key}") if field.exclude else _default(field)
        yield Key(key, _kind(key) if field.exclude else _words(field), usual, field.description or "")


def _kind(key: str) -> str:
    """Return the type of a key that holds a part or several, or a section of its own."""
    lists = {"metrics": "list of parts", "subject_to": "list of constraints"}
    return {**lists, "space": "part or mapping", "trial": "section", "budget": "section"}.get(key, "part")


def _usual(key: str) -> str:
    """Return the default of a key that holds a part."""
    usual = {".".join(map(str, path)): name for _, name, path in METRIC_KEYS if name}
    usual |= {f"{kind}.name": name for kind, name in DEFAULT_NAMES.items()}
    usual |= {"genome.space": DEFAULT_NAMES["space"], "tune.sampler": DEFAULT_NAMES["sampler"]}
    none = {
        "fitness.ties": "null",
        "fitness.metrics": "null",
        "fitness.subject_to": "[]",
        "tune.trial": "{}",
        "tune.budget": "{}",
    }
    return (usual | none).get(key, REQUIRED)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True, validated_data={})
    return inline(list(value) if isinstance(value, tuple) else value)


def _words(field: FieldInfo) -> str:
    """Return the type of a field in words."""
    annotation: Any = field.annotation
    for each in field.metadata:
        annotation = Annotated[annotation, each]
    return _of(TypeAdapter(annotation).json_schema(), {})


def _of(shape: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Return a JSON schema in words."""
    known = {**known, **shape.get("$defs", {})}
    if "anyOf" in shape:
        return ", or ".join(dict.fromkeys(_of(each, known) for each in shape["anyOf"]))
    if "$ref" in shape:
        inner = known[shape["$ref"].rpartition("/")[2]]
        return f"{{{', '.join(inner['properties'])}}}"
    if "enum" in shape:
        return " | ".join(map(str, shape["enum"]))
    if "const" in shape:
        return str(shape["const"])
    match shape.get("type"):
        case "array" if "prefixItems" in shape:
            return f"[{', '.join(_of(each, known) for each in shape['prefixItems'])}]"
        case "array":
            return f"list of {_of(shape.get('items', {}), known)}"
        case "object":
            return "mapping"
        case None:
            return "any value"
        case plain:
            return WORDS[plain] + _bounds(shape)


def _bounds(shape: Mapping[str, Any]) -> str:
    """Return the bounds of a number in words, none where all numbers of its type have them."""
    limits = {key: f"{shape[key]:g}" for key in shape if "imum" in key and float(shape[key]) not in LIMITS}
    low, high = ([limits.get(name), limits.get(f"exclusive{name.capitalize()}")] for name in ("minimum", "maximum"))
    if any(low) and any(high):
        return f" in {'[' if low[0] else '('}{low[0] or low[1]}, {high[0] or high[1]}{']' if high[0] else ')'}"
    signs = zip((">=", ">", "<=", "<"), (*low, *high), strict=True)
    return "".join(f" {sign} {limit}" for sign, limit in signs if limit is not None)
