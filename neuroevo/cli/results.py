"""What a run came to, as rows of tables."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neuroevo import caveats, config
from neuroevo.cli.columns import GAP, cut, pad, span
from neuroevo.errors import InputError, printable
from neuroevo.experiments import goals
from neuroevo.experiments.evaluation import Evaluation
from neuroevo.problems import intervals
from neuroevo.problems.intervals import OfClass, Share
from neuroevo.storage import rundir, tables


def number(value: float | None) -> str:
    """Return a score as text; null is one that isn't finite."""
    return "-" if value is None else f"{value:.4f}"


def titles(folder: Path) -> dict[str, str]:
    """Return what the metrics of a run are called that have options, by name: recall (of cat)."""
    try:
        parts = goals.parts_of(config.check(config.read(str(folder / rundir.CONFIG))))
    except InputError:  # of a run from Python, or damaged
        return {}
    found = {}
    for name, part in parts.items():
        options = [f"{key} {value}" for key, value in part.options.items() if isinstance(value, str | int | float)]
        found[name] = f"{name} ({', '.join(options)})" if options else name
    return found


def scores(found: dict[str, Any], called: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """Return rows for metrics, each with its 95 % interval, under what they are called."""
    names = called or {}
    return [
        (names.get(name, name), f"{number(value)}  [{', '.join(map(number, found['interval'][name]))}]")
        for name, value in found.items()
        if name in found["interval"]
    ]


def of_classes(found: Evaluation, room: int | None) -> Iterator[str]:
    """Yield the lines of a table of each class's recall and precision, the worst first, in so much room."""

    def badness(item: tuple[str, OfClass]) -> tuple[float, float]:
        return tuple(math.inf if share.value is None else share.value for share in item[1])  # type: ignore[return-value]

    each = zip(map(printable, found.classes), intervals.of_classes(found.tested.confusion), strict=True)
    ordered = sorted(each, key=badness)
    name = max(len("class"), *(span(label) for label, _ in ordered))
    rows = [(label, [share_text(share) for share in shares]) for label, shares in ordered]
    heads = "recall, of its samples", "precision, of predictions"
    share = max(len(heads[0]), *(span(text) for _, texts in rows for text in texts))
    yield "each class, lowest recall first [95 % interval]"
    if room is None or len(GAP) * 3 + name + share + max(share, len(heads[1])) <= room:
        yield f"  {pad('class', name)}  {pad(heads[0], share)}  {heads[1]}"
        for label, texts in rows:
            yield f"  {pad(label, name)}  {pad(texts[0], share)}  {texts[1]}".rstrip()
        return
    for label, texts in rows:
        yield f"  {cut(label, room - len(GAP))}"
        yield from (f"    {what:<9}  {text}" for what, text in zip(OfClass._fields, texts, strict=True))


def share_text(share: Share) -> str:
    """Return a share with its interval and what it is of: 0.750 [0.510, 0.900] of 16."""
    if share.value is None:
        return "-  of 0"
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}] of {share.total:,}"


def writable(file: str, run_dir: str, option: str) -> Path:
    """Return the path of a table that an option gives; InputError where it can't be written, or is the run's own."""
    rundir.refuse_inside(run_dir, file, option)
    return tables.writable(file, option)


def write_predictions(found: Evaluation, path: Path) -> str:
    """Write what is predicted of each sample as a table; return a line about it."""
    of_files = found.places and isinstance(found.places[0], str)
    with tables.write(path, ["file" if of_files else "row", "true", "predicted", "probability"]) as add:
        for row in found.predictions():
            add(row)
    return f"{path}: predictions for {len(found.places):,} {found.noun}"


def beside(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a row on what the logistic regression beside a champion reaches on test; none where there is none."""
    found = result.get("baseline", {}).get("logistic")
    if found is None:
        return []
    metric = next(name for name in found["validation"] if name in found["test"]["interval"])
    return [(f"logistic regression {name}", value) for name, value in scores(found["test"]) if name == metric]


def comparison(name: str, entry: dict[str, Any], champion: dict[str, Any]) -> list[tuple[str, str]]:
    """Return rows for what is taken away beside the champion, each metric on validation and on test."""
    test, champions = entry.get("test", {"interval": {}}), champion.get("test", {})
    degrees = entry.get("temperature")
    rows = [] if degrees is None else [("temperature", number(degrees))]
    for metric, value in entry["validation"].items():
        beside = champion.get("validation", {}).get(metric)
        rows += [
            (f"validation {metric}", f"{number(value)}  (champion {number(beside)})" if champion else number(value))
        ]
    for metric, text in scores(test):
        rows += [(f"test {metric}", f"{text}  (champion {number(champions.get(metric))})")]
    return rows


def describe(folder: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return a run's result as tables, each a title and rows: of its search for settings, and of the run itself."""
    tables, result = [], rundir.read_result(Path(folder))
    tuning = result.get("tuning", result)
    if "trials" in tuning:
        best = tuning["best"]
        spent = tuning["cost"]["forward_samples"] + 2 * tuning["cost"]["backward_samples"]
        rows = [("tuning", f"{tuning['status']} ({tuning['stop_reason']}) after {tuning['iterations']} iterations")]
        rows += [("trials", f"{tuning['trials']}, {spent:,} samples, {tuning['cost']['seconds']:.1f} s")]
        rows += [(key, str(value)) for key, value in (best or {"settings": {}})["settings"].items()]
        rows += [(f"its validation {k}", number(v)) for k, v in (best or {"validation": {}})["validation"].items()]
        rows += [("warning", line) for line in tuning.get("warnings", []) if "champion" not in result]
        tables.append((folder, rows))
    if "champion" not in result:
        return tables
    champion, cost = result["champion"], result["cost"]
    rows = [("status", f"{result['status']} ({result['stop_reason']}) after {result['generations']} generations")]
    about = champion.get("about") or caveats.of_kind(champion["kind"], champion["generation"], {})
    rows += [("champion", about)]
    called, folds = titles(Path(folder)), result.get("folds", {})
    rows += [("chosen by", caveats.of_folds(folds))] if folds else []
    known = dict(scores({**champion["validation"], "interval": folds.get("interval", {})}))
    rows += [(f"validation {called.get(k, k)}", known.get(k, number(v))) for k, v in champion["validation"].items()]
    rows += [(f"test {name}", value) for name, value in scores(champion.get("test", {"interval": {}}), called)]
    for split, found in (("validation", champion), ("test", champion.get("test", {}))):
        rows += caveats.of_constraints(split, found.get("constraints", {}))
    rows += beside(result)
    for name, entry in result.get("selections", {}).items():
        rows += [(name, entry["about"])]
        rows += [(f"{name}, {metric}", value) for metric, value in comparison(name, entry, champion)]
    rows += [("forward samples", f"{cost['forward_samples']:,}"), ("seconds", f"{cost['seconds']:.1f}")]
    rows += [("warning", line) for line in result.get("warnings", [])]
    return [*tables, (folder, rows)]
