"""What a run came to, as rows of tables."""

from pathlib import Path
from typing import Any

from neuroevo import caveats
from neuroevo.storage import rundir


def number(value: float | None) -> str:
    """Return a score as text; null is one that isn't finite."""
    return "-" if value is None else f"{value:.4f}"


def scores(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return rows for metrics, each with its 95 % interval."""
    return [
        (name, f"{number(value)}  [{', '.join(map(number, found['interval'][name]))}]")
        for name, value in found.items()
        if name in found["interval"]
    ]


def comparison(name: str, entry: dict[str, Any], champion: dict[str, Any]) -> list[tuple[str, str]]:
    """Return rows for what is taken away beside the champion, each metric on validation and on test."""
    test, champions = entry.get("test", {"interval": {}}), champion.get("test", {})
    rows = [] if entry["temperature"] is None else [("temperature", number(entry["temperature"]))]
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
    rows += [(f"validation {name}", number(value)) for name, value in champion["validation"].items()]
    rows += [(f"test {name}", value) for name, value in scores(champion.get("test", {"interval": {}}))]
    for split, found in (("validation", champion), ("test", champion.get("test", {}))):
        rows += caveats.of_constraints(split, found.get("constraints", {}))
    for name, entry in result.get("selections", {}).items():
        rows += [(name, entry["about"])]
        rows += [(f"{name}, {metric}", value) for metric, value in comparison(name, entry, champion)]
    rows += [("forward samples", f"{cost['forward_samples']:,}"), ("seconds", f"{cost['seconds']:.1f}")]
    rows += [("warning", line) for line in result.get("warnings", [])]
    return [*tables, (folder, rows)]
