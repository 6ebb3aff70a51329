"""The form of records that are read back: lines of a history and of a lineage, and a result.

Whoever reads a record that has its form may index it, format its figures, and add them, without a look at any of them.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from neuroevo.errors import UNSAFE

COUNTS = ("generation", "invalid", "forward_samples", "backward_samples")  # whole numbers of a history's line
FIGURES = ("fitness_best", "fitness_mean", "fitness_std", "diversity", "validation", "seconds")  # its other columns
NUMBERS = 2**29  # of one sample: the largest picture that is read, in three channels
SPENT = ("forward_samples", "backward_samples", "validation_samples", "backbone_samples", "seconds")
MOST = 2**62  # of what is counted: twice as many are a number of 63 bits yet
LONGEST = 200  # characters of a name


def number(value: Any) -> bool:
    """Tell whether a value is a number that is finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


def count(value: Any) -> bool:
    """Tell whether a value is a whole number from 0 on, of 63 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def amount(value: Any) -> bool:
    """Tell whether a value is a number from 0 on, of which several can be added."""
    return number(value) and 0 <= value < 1e100


def name(value: Any) -> bool:
    """Tell whether a value can be the name of a column: one line that isn't long, and that a terminal only shows."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST and not UNSAFE.search(value)


def of_history(line: dict[str, Any]) -> bool:
    """Tell whether a line is as a history's are."""
    return (
        all(count(line.get(key)) for key in COUNTS)
        and line["generation"] > 0
        and number(line.get("seconds"))
        and all(key in line for key in FIGURES)
        and all(name(key) and (value is None or number(value)) for key, value in line.items())
    )


def of_island(line: dict[str, Any]) -> bool:
    """Tell whether a line is as those of islands are."""
    whole = all(count(line.get(key)) for key in ("generation", "island", "invalid"))
    there = all(key in line for key in ("fitness_best", "fitness_mean", "fitness_std", "diversity"))
    rest = all(name(key) and (value is None or number(value)) for key, value in line.items())
    return whole and line["generation"] > 0 and there and rest


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
    # A value that is no list has no width, which is another than that of an empty list.
    widths = {len(value) if isinstance(value, list) else None for value in fitness if value is not None}
    values = [v for value in fitness if value is not None for v in (value if isinstance(value, list) else [value])]
    return rows and len(widths) < 2 and 0 not in widths and all(map(number, values))


def of_config(given: Any) -> bool:
    """Tell whether a config, which a run wrote, has what a page and a summary look at."""

    def is_metric(metric: Any) -> bool:
        return text(metric) or (isinstance(metric, dict) and text(metric.get("name")))

    def is_section(section: Any) -> bool:
        return section is None or isinstance(section, dict)

    if not isinstance(given, dict) or not all(
        isinstance(given.get(key), dict) for key in ("validate", "fitness", "algorithm")
    ):
        return False
    whole = all(value is None or count(value) for value in map(given["algorithm"].get, ("elites", "population")))
    apart = given.get("islands")
    settings = apart.get("settings") if isinstance(apart, dict) else None
    sections = ("data", "backbone", "head", "features", "genome", "refine", "budget", "checkpoint", "islands", "tune")
    return (
        whole
        and all(is_section(given.get(key)) for key in sections)
        and (settings is None or listing(settings, any_mapping))
        and is_metric(given["validate"].get("metric"))
        and listing(given["fitness"].get("metrics") or [], is_metric)
    )


def of_result(result: dict[str, Any]) -> bool:
    """Tell whether a result has the form of a run's, a search's or a benchmark's."""
    if not (
        mapping(result.get("files", {}), text)
        and listing(result.get("warnings", []), text)
        and mapping(result.get("versions", {}), lambda value: value is None or text(value))
    ):
        return False
    if "metric" in result:  # of a benchmark
        arms, runs = result.get("arms", {}), result.get("runs", 0)
        return all(text(result.get(key)) for key in ("status", "metric")) and count(runs) and mapping(arms, _of_figures)
    if not all(text(result.get(key)) for key in ("status", "stop_reason")) or not _of_cost(result.get("cost")):
        return False
    return _of_search(result) if "trials" in result else _of_run(result)


def text(value: Any) -> bool:
    """Tell whether a value is text."""
    return isinstance(value, str)


def mapping(value: Any, right: Callable[[Any], bool]) -> bool:
    """Tell whether a value is a mapping from text to what is `right`."""
    return isinstance(value, dict) and all(text(key) and right(item) for key, item in value.items())


def any_mapping(value: Any) -> bool:
    """Tell whether a value is a mapping, whatever is in it."""
    return isinstance(value, dict)


def of_arms(value: Any) -> bool:
    """Tell whether a value is the arms of a benchmark: names, each with what it changes in a config, if anything."""
    return mapping(value, lambda overlay: overlay is None or isinstance(overlay, dict))


def listing(value: Any, right: Callable[[Any], bool]) -> bool:
    """Tell whether a value is a list of what is `right`."""
    return isinstance(value, list) and all(map(right, value))


def _of_figures(values: Any, *keys: str) -> bool:
    """Tell whether a value is a mapping to numbers and None, with a number for each of some keys."""
    return mapping(values, lambda v: v is None or number(v)) and all(number(values.get(key)) for key in keys)


def _of_cost(found: Any) -> bool:
    return mapping(found, amount) and all(key in found for key in SPENT)


def _of_search(result: dict[str, Any]) -> bool:
    best = result.get("best")
    fine = best is None or (
        isinstance(best, dict) and _of_figures(best.get("validation")) and mapping(best.get("settings"), lambda _: True)
    )
    return "best" in result and fine and count(result["trials"]) and count(result.get("iterations"))


def _of_run(result: dict[str, Any]) -> bool:
    champion = result.get("champion")
    return (
        isinstance(champion, dict)
        and name(champion.get("kind"))
        and count(champion.get("generation"))
        and _of_figures(champion.get("validation"))
        and count(result.get("generations"))
        and text(champion.get("about", ""))
        and ("test" not in champion or _of_test(champion["test"]))
        and _of_constraints(champion.get("constraints", {}))
        and _of_data(result.get("data", {}))
        and mapping(result.get("baseline", {}), _of_baseline)
        and _of_folds(result.get("folds", {}))
        and mapping(result.get("selections", {}), _of_selection)
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
            and isinstance(value.get("precision", ""), str)
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

    def layout(value: Any) -> bool:
        of_each = dict(value) if isinstance(value, dict) else {}
        names, shapes, levels = of_each.get("names", ""), of_each.get("shapes", ""), of_each.get("levels", [])
        if not texts(names) or not listing(shapes, lambda shape: listing(shape, count)) or len(shapes) != len(names):
            return False
        return len({*names}) == len(names) and listing(levels, count) and len(levels) in (0, len(names))

    def changes(value: Any) -> bool:
        return listing(value, lambda change: mapping(change, count))

    def cost(value: Any) -> bool:
        return mapping(value, count) and all(value.get(key, MOST) < MOST for key in SPENT if key != "seconds")

    forms = {
        "classes": texts,
        "versions": versions,
        "plan": execution,
        "plan_changes": changes,
        "moves": moves,
        "native": native,
        "layout": layout,
        "cost": cost,
    }
    for key, right in forms.items():
        if key in attributes and not right(attributes[key]):
            return key
    fine = isinstance(validation, dict) and all(map(figure, validation.values()))
    return None if fine else "the champion's validation"


def _of_data(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and text(found.get("noun", ""))
        and mapping(found.get("images", {}), count)
        and mapping(found.get("folders", {}), text)
        and listing(found.get("notes", []), text)
    )


def _of_constraints(found: Any) -> bool:
    return isinstance(found, dict) and all(
        isinstance(each, dict)
        and isinstance(each.get("feasible"), bool)
        and all(each.get(key) is None or number(each[key]) for key in ("slack", "violation", "value"))
        and {"slack", "violation"} <= each.keys()
        and ("values" not in each or (_of_figures(each["values"]) and each.get("worst") in [*each["values"]]))
        for each in found.values()
    )


def _of_test(test: Any) -> bool:
    if isinstance(test, dict) and not _of_constraints(test.get("constraints", {})):
        return False
    if not isinstance(test, dict) or not isinstance(test.get("interval"), dict) or not count(test.get("images")):
        return False
    pairs = [
        [test.get(name), *ends] if isinstance(ends, list) and len(ends) == 2 else [""]
        for name, ends in test["interval"].items()
    ]
    return all(v is None or number(v) for pair in pairs for v in pair)


def _of_baseline(each: Any) -> bool:
    return (
        isinstance(each, dict)
        and _of_figures(each.get("validation"))
        and _of_test(each.get("test"))
        and not each["validation"].keys().isdisjoint(each["test"]["interval"])  # one of which both are known
        and _of_figures({key: each.get(key) for key in ("C", "seconds")}, "C", "seconds")
    )


def _of_folds(found: Any) -> bool:
    return isinstance(found, dict) and (
        not found
        or (
            count(found.get("count"))
            and count(found.get("looks"))
            and _of_figures(found.get("validation"))
            and _of_test({key: found.get(key) for key in ("interval", "images")})
        )
    )


def _of_selection(each: Any) -> bool:
    return (
        isinstance(each, dict)
        and text(each.get("about"))
        and count(each.get("members"))
        and (each.get("temperature") is None or number(each["temperature"]))
        and _of_figures(each.get("validation"))
        and ("test" not in each or _of_test(each["test"]))
        and mapping(each.get("cost", {}), amount)
    )
