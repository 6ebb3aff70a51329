"""A decision stage for a run's champion, or for logits in a file: fitted apart from test, scored on it once."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from neuroevo import config
from neuroevo.decision.tune import Decision, Score, tune_decision
from neuroevo.engine.observer import Observer
from neuroevo.errors import InputError
from neuroevo.experiments import logits
from neuroevo.experiments.compose import Run
from neuroevo.experiments.interruption import NEVER, Interruption
from neuroevo.experiments.logits import Logits
from neuroevo.networks import heads
from neuroevo.networks.weightfiles import seal
from neuroevo.storage import files, rundir

SIGNS = {">=": "at_least", "<=": "at_most"}
SHAPE = re.compile(
    r"\s*(?P<metric>\{.*\}|[^\s{}<>=]+)(?:\s+(?:per\s+(?P<per>class|group)|of\s+(?P<of>.+?)))?"
    r"\s*(?P<sign>>=|<=)\s*(?P<bound>[^\s<>=]+)\s*"
)
EXAMPLE = "METRIC [per class | per group | of CLASS] >= NUMBER, or <="


class Decided(NamedTuple):
    """What was decided, and what it is worth on test."""

    decision: Decision
    given: Logits
    test: dict[str, Score]  # by row: argmax, and the chosen one; {} where there is no test split
    written: tuple[str, ...] = ()  # files


def read_constraint(text: str) -> dict[str, Any]:
    """Return a constraint as it is said: `METRIC [per class | per group | of CLASS] >= NUMBER`, or <=."""
    found = SHAPE.fullmatch(text)
    if found is None:
        raise InputError(f"--subject-to: {text!r} given; {EXAMPLE}, expected")
    try:
        bound = float(found["bound"])
    except ValueError:
        raise InputError(f"--subject-to: {found['bound']!r} given for a number in {text!r}") from None
    metric = read_metric(found["metric"], "--subject-to")
    if found["of"]:
        own = int(found["of"]) if found["of"].isdigit() else found["of"]
        metric = {"name": metric} if isinstance(metric, str) else metric
        metric = {**metric, "of": own}
    per = {"per": found["per"]} if found["per"] else {}
    return {"metric": metric, **per, SIGNS[found["sign"]]: bound}


def read_metric(text: str, option: str) -> Any:
    """Return a metric as it is said: a name, or `{name: ..., option: ...}` as YAML has it."""
    return config.parse(text, option) if text.lstrip().startswith("{") else text


def decide(
    place: str,
    metric: str,
    subject_to: Sequence[str],
    observer: Observer,
    *,
    folds: int = 5,
    seed: int = 0,
    out: str | None = None,
    sets: Sequence[str] = (),
    signals: Interruption = NEVER,
) -> Decided:
    """Return a decision stage for a run's champion or for an .npz file of logits; write it to `out`, a .json file.

    It is fitted to the validation split, and the row that is chosen is scored on test beside argmax, once. Where a
    run's head ends in a linear layer, the champion with the decision folded in is written beside `out`.
    """
    asked = read_metric(metric, "--metric")
    bounds = [read_constraint(text) for text in subject_to]
    path = None if out is None else writable(out, place)
    given = logits.read(place, observer, sets, signals=signals)
    where = {"metric": "--metric", "folds": "--folds", "logits": place, "y": place, "groups": place}
    where |= {f"constraints.{i}": f"--subject-to {text!r}" for i, text in enumerate(subject_to)}
    with signals, config.at(**where):
        decision = tune_decision(
            given.fitted.logits,
            given.fitted.y,
            asked,
            bounds,
            given.fitted.groups,
            classes=given.classes,
            prior=given.prior,
            folds=folds,
            seed=seed,
        )
    test = {}
    if given.test is not None:
        for name in dict.fromkeys((decision.rows[0].name, decision.chosen)):
            test[name] = decision.score(*given.test, row=name)
    found = Decided(decision, given, test)
    return found if path is None else found._replace(written=tuple(write(found, path)))


def writable(out: str, place: str) -> Path:
    """Return the file that a decision is written to; InputError where it can't be, or is the run's own."""
    path = Path(out)
    if path.suffix.lower() != ".json":
        raise InputError(f"--out: {path.name} doesn't end in .json; offsets and scales are written as such a file")
    if Path(place).is_dir():
        rundir.refuse_inside(place, out)
    for each in (path, *beside(path)):
        files.check_new(each, "--out")
    return path


def beside(path: Path) -> tuple[Path, Path]:
    """Return the files for a champion's weights and for its whole network, beside a decision's."""
    return path.with_suffix(f".{rundir.CHAMPION}"), path.with_suffix(f".{rundir.NETWORK}")


def write(found: Decided, path: Path) -> list[str]:
    """Write a decision, and where it can be folded in the champion with it; return lines about what was written.

    All of the files are there, or none.
    """
    with files.new(path, *beside(path)):
        return _write(found, path)


def _write(found: Decided, path: Path) -> list[str]:
    files.replace(path, (json.dumps(record(found), indent=2) + "\n").encode())
    lines = [str(path)]
    if found.given.run is None or found.decision.nothing:
        return lines
    run, genome = found.given.run
    last = last_linear(run)
    if last is None:
        return [*lines, f"nothing is folded: no linear layer gives the logits of {run.network.name}"]
    champion, network = beside(path)
    about: dict[str, Any] = {"backbone": run.network.backbone.name, "classes": run.network.classes}
    about["decision"] = record(found)
    files.replace(champion, seal(fold(run.network.fold(genome), last, found.decision), about))
    lines.append(f"{champion}: the champion with the decision folded in")
    if run.config.checkpoint.network:
        backbone, whole = run.network.backbone, run.network.module(genome).cpu().state_dict()
        about |= {"transform": backbone.transform._asdict(), "inputs": backbone.inputs, "native": run.whole.native()}
        about["width"] = run.network.width
        files.replace(network, seal(fold(whole, last, found.decision), about))
        lines.append(f"{network}: all of its network")
    return lines


def last_linear(run: Run) -> str | None:
    """Return the name of the linear layer with a bias that gives a run's logits, None where there is none."""
    name, layer = heads.steps(run.network.head, run.network.backbone.head)[-1]
    return name if type(layer) is nn.Linear and layer.bias is not None else None


def fold(weights: Any, layer: str, decision: Decision) -> dict[str, Tensor]:
    """Return a network's weights {name: shape} with the decision folded into the layer that gives logits."""
    found = {name: weight.cpu().contiguous() for name, weight in weights.items()}
    names = f"{layer}.weight", f"{layer}.bias"
    return found | dict(zip(names, decision.fold(*(found[name] for name in names)), strict=True))


def record(found: Decided) -> dict[str, Any]:
    """Return a decision as plain values."""
    decision = found.decision
    return {
        "metric": decision.metric,
        "subject_to": [f"{each.of} {each.bounds}" for each in decision.goal.constraints],
        "classes": found.given.classes,
        "chosen": decision.chosen,
        "why": decision.why,
        "offsets": decision.offsets.tolist(),
        "scales": decision.scales.tolist(),
        "fitted_to": found.given.split,
        "samples": decision.samples,
        "folds": decision.folds,
        "rows": [
            {
                "name": row.name,
                decision.metric: decision.as_reported(row.value),
                "standard_error": row.se,
                "gap": row.gap,
                "violation": row.violation,
            }
            for row in decision.rows
        ],
        "test": {name: score._asdict() for name, score in found.test.items()},
        "notes": decision.notes,
    }
