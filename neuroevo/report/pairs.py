"""Arms of a bench against each other, run by run of the same split and seed, and what the intervals leave out."""

import math
from collections.abc import Mapping, Sequence

from neuroevo.report import page

LEFT_OUT = (
    "Intervals are percentiles of a bootstrap over seeds within each split. They leave out what other data and another "
    "budget would change, and that of several arms the best looks better than it is; with few seeds they are too "
    "narrow: of five, those of 95 % hold the mean in 85 % of cases."
)


def table(rows: Sequence[Mapping[str, str]], lower_is_better: bool) -> str:
    """Return the table of paired differences on test, a row of comparisons.csv each; "" where there are none."""
    lines = [
        [f"{row['a']} - {row['b']}", _estimate(row, "difference"), _estimate(row, "probability")]
        for row in rows
        if _figure(row, "difference") is not None
    ]
    order = "below 0 the first is better" if lower_is_better else "above 0 the first is better"
    about = (
        f"Test of the first arm minus that of the second, the mean over runs of the same split and seed; {order}. The "
        f"probability is that of the first to be better, a tie half. In brackets 95 % intervals. {LEFT_OUT}"
    )
    return page.grid(["arms", "paired difference on test", "probability"], lines, about) if lines else ""


def _figure(row: Mapping[str, str], key: str) -> float | None:
    cell = row.get(key)
    value = float(cell) if cell else math.nan
    return value if math.isfinite(value) else None


def _estimate(row: Mapping[str, str], key: str) -> str:
    value, low, high = (_figure(row, f"{key}{end}") for end in ("", "_low", "_high"))
    sign = "+" if key == "difference" and value is not None and value > 0 else ""
    ends = "" if low is None else f"\n[{page.number(low)}, {page.number(high)}]"
    return f"{sign}{page.number(value)}{ends}"
