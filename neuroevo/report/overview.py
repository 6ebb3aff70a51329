"""What a run is of, in the few rows at the top of a page: data, classes, split sizes, network, algorithm."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from neuroevo.data.foldernames import SPLITS

NAMED = 12  # classes that are named, of more the number alone
HASH, DIGITS = re.compile(r"[0-9a-f]{64}"), 12  # of weights that have no name, and how much of it is shown


def rows(config: Mapping[str, Any], result: Mapping[str, Any], classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return rows about a run from its config and result; what isn't known yet, or there is none of, is left out."""
    data, backbone, head, algorithm = (_section(config, key) for key in ("data", "backbone", "head", "algorithm"))
    counts, noun = _section(result, "data").get("images", {}), _section(result, "data").get("noun", "images")
    place = next((str(data[key]) for key in ("root", "file") if data.get(key)), "")
    sizes = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS if split in counts)
    names = f": {', '.join(classes)}" if len(classes) <= NAMED else ""
    evolved = backbone.get("trainable")
    also = f", {', '.join(map(str, evolved))} evolve as well" if isinstance(evolved, list) and evolved else ""
    given = str(backbone.get("weights") or "none")
    given = given[:DIGITS] if HASH.fullmatch(given) else given  # a module's from Python
    weights = "" if given == "none" else f" with weights {given}"
    population = f", population {algorithm['population']:,}" if isinstance(algorithm.get("population"), int) else ""
    refine = _section(config, "refine")
    steps = f"{refine['steps']:,} steps" if isinstance(refine.get("steps"), int) else "gradient steps"
    learned = f", each individual refined by {steps} of {refine['name']}" if refine.get("name") else ""
    found = [
        ("data", " in ".join(filter(None, (str(data.get("name") or ""), place)))),
        ("classes", f"{len(classes):,}{names}" if classes else ""),
        (noun, sizes),
        ("backbone", f"{backbone.get('name') or ''}{weights}{also}"),
        ("head", str(head.get("name") or "")),
        ("algorithm", f"{algorithm.get('name') or ''}{population}{learned}"),
        ("seed", str(config.get("seed", ""))),
        ("device", str(result.get("device", ""))),
    ]
    return [(key, value) for key, value in found if value]


def _section(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a section of a config or a result; one that is no mapping is empty, but for the name it may be."""
    section = given.get(key)
    if isinstance(section, str):
        return {"name": section}
    return section if isinstance(section, dict) else {}
