"""Print the tables of benchmarks as Markdown, as docs/benchmark.md has them: python bench/published.py DIR..."""

import sys
from collections.abc import Sequence
from pathlib import Path

from neuroevo import config
from neuroevo.report.benchpage import table as rows
from neuroevo.storage import rundir


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines)) + "\n"


def figure(row: dict[str, str], name: str, mean: str = "_mean") -> str:
    low, high = row[f"{name}{mean}_low"], row[f"{name}{mean}_high"]
    interval = f" [{float(low):.4f}, {float(high):.4f}]" if low else ""
    return f"{float(row[f'{name}{mean}']):.4f}{interval}"


def published(folder: Path) -> str:
    about = config.read(str(folder / rundir.BENCH))
    result = rundir.read_result(folder)
    sign = 1 if result["lower_is_better"] else -1
    summary = sorted(rows(folder / rundir.SUMMARY), key=lambda row: sign * float(row["validation_mean"]))
    order = [row["arm"] for row in summary]
    arms = table(
        ["arm", "runs", "validation", "test", "test IQM", "gap", "seconds"],
        [[row["arm"], row["runs"], figure(row, "validation"), figure(row, "test"), f"{float(row['test_iqm']):.4f}",
          figure(row, "gap", ""), f"{float(row['seconds_mean']):.0f}"] for row in summary],
    )  # fmt: skip
    levels = rows(folder / rundir.LEVELS)
    asked = sorted({row["level"] for row in levels}, key=float, reverse=result["lower_is_better"])
    reach = table(
        ["samples to", *asked],
        [[arm, *(next((f"{float(row['samples_median']) / 1e6:.1f} M" if row["samples_median"] else "-")
                      for row in levels if (row["arm"], row["level"]) == (arm, level)) for level in asked)]
         for arm in order],
    )  # fmt: skip
    pairs = table(
        ["test", "difference", "probability of improvement"],
        [[f"{row['a']} - {row['b']}", figure(row, "difference", ""), f"{float(row['probability']):.2f}"]
         for row in rows(folder / rundir.COMPARISONS)],
    )  # fmt: skip
    spent = sorted(int(row["samples"]) for row in rows(folder / rundir.RESULTS))
    return (
        f"`{about['command']}`\n\n{about['commit']}, {about['machine']}; {result['status']}: {result['runs']} of "
        f"{result['runs_asked']} runs, {result['metric']}, {result['samples']:,} samples asked, {spent[0]:,} to "
        f"{spent[-1]:,} taken.\n\n{arms}\n{reach}\n{pairs}"
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for name in sys.argv[1:]:
        print(published(Path(name)))
