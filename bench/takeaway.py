"""What is taken away of a run beside its champion: a greedy soup and an ensemble of the final population, on test.

    python bench/takeaway.py [--config runs/bench_cifar10_folder_mlp.yaml] [--seeds 5] [--budget samples=N]
                             [--out DIR] [--set KEY=VALUE ...] [--json FILE]

Runs of the arms hybrid, diverse (bench/diverse.yaml: hybrids on islands), sgd_restarts and restarts
(bench/restarts.yaml: the same with less weight decay) by `neuroevo bench`, at equal samples and on the same splits;
then what `neuroevo export --select` takes of each: a soup and an ensemble of the hybrid's population, and ensembles
of the others. The choice takes validation passes beyond the budget, which are told. Differences on test are paired by
seed, with 95 % intervals (a bootstrap over seeds; of 5 it is narrower than it should be). The same --out goes on
where it stopped.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from about import about, begin, parser

from neuroevo.bench import benchmark
from neuroevo.bench.statistics import compare
from neuroevo.engine.observer import Observer
from neuroevo.experiments import export
from neuroevo.experiments.signals import Signals
from neuroevo.storage import rundir

CONFIG = Path(__file__).parents[1] / "runs" / "bench_cifar10_folder_mlp.yaml"
TAKEN = {  # of which arm
    "hybrid": ("soup", "ensemble"),
    "diverse": ("ensemble",),
    "sgd_restarts": ("ensemble",),
    "restarts": ("ensemble",),
}
FILES = {name: Path(__file__).parent / f"{name}.yaml" for name in ("diverse", "restarts")}  # arms that are files
PAIRS = (  # what is compared with what, as (arm, what is taken)
    (("hybrid", "soup"), ("hybrid", "champion")),
    (("hybrid", "ensemble"), ("hybrid", "champion")),
    (("sgd_restarts", "ensemble"), ("sgd_restarts", "champion")),
    (("hybrid", "ensemble"), ("sgd_restarts", "ensemble")),
    (("hybrid", "ensemble"), ("sgd_restarts", "champion")),
    (("diverse", "ensemble"), ("diverse", "champion")),
    (("diverse", "ensemble"), ("hybrid", "champion")),
    (("diverse", "ensemble"), ("sgd_restarts", "ensemble")),
    (("restarts", "ensemble"), ("restarts", "champion")),
    (("diverse", "ensemble"), ("restarts", "ensemble")),
)
SMALL = ["data={name: digits, image_size: null}", "backbone={name: none}", "head={name: mlp, hidden: [8]}"]


class Found(NamedTuple):
    """What one network came to."""

    validation: float
    test: float
    members: int
    looks: int  # validation samples of its choice, beyond the run's budget


def take(folder: Path, metric: str) -> dict[str, Found]:
    """Return what a run's champion and all that is taken away of it came to."""
    result = rundir.read_result(folder)
    champion = result["champion"]
    found = {"champion": Found(champion["validation"][metric], champion["test"][metric], 1, 0)}
    for select in TAKEN[folder.parent.name]:
        with tempfile.TemporaryDirectory() as place:
            done = export.export(str(folder), None, str(Path(place) / "m.pt"), select)
        assert done.compared is not None
        entry: dict[str, Any] = done.compared.entry
        scores = entry["validation"][metric], entry["test"][metric]
        found[select] = Found(*scores, entry["members"], entry["cost"]["validation_samples"])
    return found


def main() -> None:
    made = parser(__doc__, rounds=1)
    made.add_argument("--config", type=Path, default=CONFIG)
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--budget", help="samples=N of each run; default: the config's own")
    made.add_argument("--jobs", default="1")
    made.add_argument("--out", help="the benchmark's folder; default one that is thrown away")
    made.add_argument("--set", action="append", default=[])
    options = made.parse_args()
    begin(made, options)
    if options.small:
        options.seeds, options.budget = 2, options.budget or "samples=20000"
        options.set = [*SMALL, *options.set]
    named = about(options.rounds, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as place:
        folder = benchmark.run(
            str(options.config),
            [str(FILES.get(arm, arm)) for arm in TAKEN],
            Observer(),
            Signals(),
            seeds=options.seeds,
            splits=1,
            jobs=options.jobs,
            budget=options.budget,
            levels=[],
            sets=options.set,
            out=options.out or str(Path(place) / "bench"),
        )
        metric = rundir.read_result(Path(folder))["metric"]
        seeds: dict[tuple[str, str], list[Found]] = {}
        for arm in TAKEN:
            for run in sorted((Path(folder) / rundir.RUNS / arm).iterdir()):
                for what, found in take(run, metric).items():
                    seeds.setdefault((arm, what), []).append(found)
    show(seeds, metric)
    if options.json:
        figures = {f"{arm}, {what}": [each._asdict() for each in found] for (arm, what), found in seeds.items()}
        options.json.write_text(json.dumps(named | {"metric": metric, "figures": figures}, indent=2) + "\n")


def show(seeds: dict[tuple[str, str], list[Found]], metric: str) -> None:
    """Print what each came to, and differences on test paired by seed."""
    print(f"| arm | taken | runs | members | validation {metric} | test {metric} | samples of the choice |")
    print("|---|---|---|---|---|---|---|")
    for (arm, what), found in seeds.items():
        means = [statistics.mean(getattr(each, name) for each in found) for name in ("validation", "test")]
        members = ", ".join(str(each.members) for each in found)
        looks = statistics.mean(each.looks for each in found)
        print(f"| {arm} | {what} | {len(found)} | {members} | {means[0]:.4f} | {means[1]:.4f} | {looks:,.0f} |")
    print("\n| pair | difference on test | 95 % interval |\n|---|---|---|")
    for one, other in PAIRS:
        a, b = (np.array([[each.test for each in seeds[side]]]) for side in (one, other))
        found = compare(a, b)
        low, high = found.difference.low, found.difference.high
        pair = f"{' '.join(one)} - {' '.join(other)}"
        print(f"| {pair} | {found.difference.value:+.4f} | {low:+.4f}, {high:+.4f} |")


if __name__ == "__main__":
    main()
