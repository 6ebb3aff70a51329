"""The form of records that are read back: lines of a history and of a lineage, and a result."""

import math
import re
from collections.abc import Mapping
from typing import Any

COUNTS = ("generation", "invalid", "forward_samples", "backward_samples")  # whole numbers of a history's line
FIGURES = ("fitness_best", "fitness_mean", "fitness_std", "diversity", "validation", "seconds")  # its other columns
NUMBERS = 2**29  # of one sample: the largest picture that is read, in three channels


def number(value: Any) -> bool:
    """Tell whether a value is a number that is finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


def count(value: Any) -> bool:
    """Tell whether a value is a whole number from 0 on, of 63 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def of_history(line: dict[str, Any]) -> bool:
    """Tell whether a line is as a history's are."""
    return (
        all(count(line.get(key)) for key in COUNTS)
        and line["generation"] > 0
        and number(line.get("seconds"))
        and all(key in line for key in FIGURES)
        and all(value is None or number(value) for value in line.values())
    )


def of_island(line: dict[str, Any]) -> bool:
    """Tell whether a line is as those of islands are."""
    whole = all(count(line.get(key)) for key in ("generation", "island", "invalid"))
    figures = all(key in line for key in ("fitness_best", "fitness_mean", "fitness_std", "diversity"))
    return whole and line["generation"] > 0 and figures and all(v is None or number(v) for v in line.values())


def of_lineage(line: dict[str, Any]) -> bool:
    """Tell whether a line is as a lineage's are."""
    parents, fitness = line.get("parents"), line.get("fitness")
    if not count(line.get("generation")) or not isinstance(parents, list) or not isinstance(fitness, list):
        return False
    if len(parents) != len(fitness) or not parents:
        return False
    rows = all(isinstance(row, list) and all(count(p) or p == -1 for p in row) for row in parents)
    island = line.get("island", [0] * len(parents))
    rows = rows and isinstance(island, list) and len(island) == len(parents) and all(map(count, island))
    widths = {len(value) if isinstance(value, list) else 0 for value in fitness if value is not None}
    values = [v for value in fitness if value is not None for v in (value if isinstance(value, list) else [value])]
    return rows and len(widths) < 2 and all(map(number, values))


def of_result(result: dict[str, Any]) -> bool:
    """Tell whether a result has the form of a run's, a search's or a benchmark's."""

    def texts(*keys: str) -> bool:
        return all(isinstance(result.get(key), str) for key in keys)

    def figures(values: Any, *keys: str) -> bool:
        return (
            isinstance(values, dict)
            and all(v is None or number(v) for v in values.values())
            and all(number(values.get(key)) for key in keys)
        )

    def of_constraints(found: Any) -> bool:
        return isinstance(found, dict) and all(
            isinstance(each, dict)
            and isinstance(each.get("feasible"), bool)
            and all(each.get(key) is None or number(each[key]) for key in ("slack", "violation", "value"))
            and {"slack", "violation"} <= each.keys()
            and ("values" not in each or (figures(each["values"]) and each.get("worst") in each["values"]))
            for each in found.values()
        )

    def of_test(test: Any) -> bool:
        if isinstance(test, dict) and not of_constraints(test.get("constraints", {})):
            return False
        if not isinstance(test, dict) or not isinstance(test.get("interval"), dict) or not count(test.get("images")):
            return False
        pairs = [
            [test.get(name), *ends] if isinstance(ends, list) and len(ends) == 2 else [""]
            for name, ends in test["interval"].items()
        ]
        return all(v is None or number(v) for pair in pairs for v in pair)

    def of_baseline(found: Any) -> bool:
        return isinstance(found, dict) and all(
            isinstance(each, dict)
            and figures(each.get("validation"))
            and of_test(each.get("test"))
            and figures({key: each.get(key) for key in ("C", "seconds")}, "C", "seconds")
            for each in found.values()
        )

    def of_folds(found: Any) -> bool:
        return isinstance(found, dict) and (
            not found
            or (
                count(found.get("count"))
                and count(found.get("looks"))
                and figures(found.get("validation"))
                and of_test({key: found.get(key) for key in ("interval", "images")})
            )
        )

    def of_selections(found: Any) -> bool:
        return isinstance(found, dict) and all(
            isinstance(each, dict)
            and isinstance(each.get("about"), str)
            and count(each.get("members"))
            and figures(each.get("validation"))
            and ("test" not in each or of_test(each["test"]))
            for each in found.values()
        )

    spent = ("forward_samples", "backward_samples", "validation_samples", "backbone_samples", "seconds")
    told, beside = result.get("warnings", []), result.get("files", {})
    if not isinstance(beside, dict) or not all(isinstance(sha, str) for sha in beside.values()):
        return False
    if not isinstance(told, list) or not all(isinstance(line, str) for line in told):
        return False
    if "metric" in result:  # of a benchmark
        arms = result.get("arms", {})
        return texts("status", "metric") and isinstance(arms, dict) and all(map(figures, arms.values()))
    if not texts("status", "stop_reason") or not figures(result.get("cost"), *spent):
        return False
    if "trials" in result:
        best = result.get("best")
        fine = best is None or (
            isinstance(best, dict) and figures(best.get("validation")) and isinstance(best.get("settings"), dict)
        )
        return fine and count(result["trials"]) and count(result.get("iterations"))
    champion = result.get("champion")
    return (
        isinstance(champion, dict)
        and isinstance(champion.get("kind"), str)
        and count(champion.get("generation"))
        and figures(champion.get("validation"))
        and count(result.get("generations"))
        and isinstance(champion.get("about", ""), str)
        and ("test" not in champion or of_test(champion["test"]))
        and of_constraints(champion.get("constraints", {}))
        and of_baseline(result.get("baseline", {}))
        and of_folds(result.get("folds", {}))
        and of_selections(result.get("selections", {}))
        and (
            "tuning" not in result
            or (isinstance(result["tuning"], dict) and "trials" in result["tuning"] and of_result(result["tuning"]))
        )
    )


def of_checkpoint(attributes: Mapping[str, Any], validation: Any) -> str | None:
    """Return the name of an attribute of a checkpoint that hasn't its form, or None; `attributes` are as read of JSON.

    `validation` is the champion's, infinite where nobody was valid.
    """

    def texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)

    def versions(value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())

    def figure(value: Any) -> bool:
        return isinstance(value, float) or number(value)

    def execution(value: Any) -> bool:
        home = value.get("home", "cpu") if isinstance(value, dict) else None
        counts = ("classes", "individuals", "samples", "limit", "threads")
        return (
            isinstance(home, str)
            and re.fullmatch(r"cpu|cuda(:\d{1,3})?", home) is not None
            and isinstance(value.get("method"), str)
            and all(count(value.get(key)) for key in counts)
            and all(count(value.get(key, 0)) for key in ("trained", "micro"))
            and all(isinstance(value.get(key, False), bool) for key in ("one_pass", "graphs"))
        )

    def moves(value: Any) -> bool:
        pairs = ("threads", "device", "features")
        return isinstance(value, list) and all(
            isinstance(move, dict)
            and count(move.get("generation"))
            and {*move} <= {"generation", "versions", *pairs}
            and all(isinstance(move[key], list) and len(move[key]) == 2 for key in pairs if key in move)
            and isinstance(move.get("versions", {}), dict)
            and all(isinstance(pair, list) and len(pair) == 2 for pair in move.get("versions", {}).values())
            for move in value
        )

    def native(value: Any) -> bool:
        return (
            isinstance(value, list) and len(value) in (1, 3) and all(map(count, value)) and math.prod(value) <= NUMBERS
        )

    forms = {"classes": texts, "versions": versions, "plan": execution, "moves": moves, "native": native}
    for key, right in forms.items():
        if key in attributes and not right(attributes[key]):
            return key
    fine = isinstance(validation, dict) and all(map(figure, validation.values()))
    return None if fine else "the champion's validation"
