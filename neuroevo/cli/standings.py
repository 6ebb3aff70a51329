"""What the arms of a benchmark came to, as rows of a table."""

from math import isfinite
from pathlib import Path

from neuroevo.cli.results import number
from neuroevo.errors import InputError
from neuroevo.storage import rundir


def describe(folder: str) -> tuple[str, list[tuple[str, str]]]:
    """Return a title and a row for each arm, best on validation first."""
    result = rundir.read_result(Path(folder))
    sign = 1 if result["lower_is_better"] else -1
    rows = [(f"{result['metric']} at {result['samples']:,} samples", "validation, test with 95 % interval, seconds")]
    for name, arm in sorted(result["arms"].items(), key=lambda item: place(item[1]["validation_mean"], sign)):
        low, high = arm["test_mean_low"], arm["test_mean_high"]
        interval = "[one run]" if low is None else f"[{number(low)}, {number(high)}]"
        means = f"{number(arm['validation_mean'])}  {number(arm['test_mean'])}"
        rows.append((name, f"{means} {interval}  {arm['seconds_mean']:.1f}"))
    rows += [("warning", line) for line in result.get("warnings", [])]
    return f"{folder}: {result['runs']} of {result['runs_asked']} runs", rows


def read_levels(text: str | None) -> list[float]:
    """Return the levels that `--levels` names, with commas between them; InputError where one is no number."""
    try:
        levels = [float(level) for level in text.split(",")] if text else []
    except ValueError:
        levels = [float("nan")]
    if not all(map(isfinite, levels)):
        raise InputError(f"--levels {text}: give numbers with commas between them")
    return levels


def place(mean: float | None, sign: int) -> float:
    """Return the key that sorts arms, the best first; last where there is no mean."""
    return float("inf") if mean is None else sign * mean
