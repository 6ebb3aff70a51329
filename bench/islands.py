"""Islands against one population of as many individuals, at equal samples and seeds.

    python bench/islands.py [--config FILE] [--seeds 5] [--forward 48000000] [--root DIR] [--json FILE]

The config's own search with 256 individuals, and four islands of 64: which of several ways to migrate they have is
chosen by the mean over seeds of the champion's validation, and so is the size of one population. Test is looked at for
what was chosen, and for the config as it is, alone. Differences are paired over seeds, with Student's 95 % intervals.
A seed has its own split as well.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from about import about, begin, parser
from stages import note, rounded, table

from neuroevo import config
from neuroevo.engine.observer import Observer
from neuroevo.experiments import experiment
from neuroevo.storage import rundir

Sets = list[str]
REFERENCE, ALL = "one population", 256
SIZES = {64: "one population of a quarter", 256: REFERENCE}
WAYS: dict[str, str] = {  # of four islands to migrate
    "nobody goes": "migrants: 0",
    "ring, 1 each 10": "every: 10",
    "ring, 4 each 25": "every: 25, migrants: 4",
    "full, 1 each 10": "every: 10, topology: full",
    "ring, 4 each 5": "every: 5, migrants: 4",
    "ring, steps of their own": "every: 10, settings: [{algorithm.mutation.sigma: 0.005}, {}, "
    "{algorithm.mutation.sigma: 0.02}, {algorithm.mutation.sigma: 0.05}]",
}
SMALL = [
    "backbone={name: none, weights: none}", "data={name: digits, image_size: null, limit: 300}", "fitness.samples=60"
]  # fmt: skip


def main() -> None:
    made = parser(__doc__, rounds=1)
    made.add_argument("--config", default=str(Path(__file__).parents[1] / "runs" / "cifar10_folder.yaml"))
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--forward", type=int, default=48_000_000, help="samples that go forward in a run")
    made.add_argument("--root", type=Path, help="of the images, where the config's isn't there")
    options = made.parse_args()
    begin(made, options)
    file, size, shared = options.config, ALL, []
    if options.small:
        file, size, shared, options.seeds, options.forward = None, 32, SMALL, 2, 40_000
    shared += [f"data.root={options.root}"] if options.root else []
    shared += ["budget.generations=null", f"budget.forward_samples={options.forward}", "checkpoint.network=false"]
    arms: dict[str, Sets] = {name: [f"algorithm.population={n * size // ALL}"] for n, name in SIZES.items()}
    quarter = f"algorithm.population={size // 4}"
    arms |= {f"four islands, {way}": [quarter, f"islands={{count: 4, {own}}}"] for way, own in WAYS.items()}
    record = about(1, torch.device("cpu"))
    found: dict[str, dict[str, list[float]]] = {}
    tests: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        for name, sets in arms.items():
            result = run(file, [*shared, *sets, f"seed={seed}", f"data.split_seed={seed}"])
            champion = result["champion"]
            figures = {"validation": champion["validation"]["accuracy"], "generations": result["generations"]}
            note(found, seed, name, {**figures, "seconds": result["cost"]["seconds"]})
            tests.setdefault(name, []).append(champion["test"]["accuracy"])
    chosen = choose(found)
    shown = {name: {"validation": found[name]["validation"], "test": tests[name]} for name in chosen}
    print(table({name: {"validation": of["validation"]} for name, of in found.items()}, REFERENCE, ["validation"]))
    print(table(shown, REFERENCE, ["validation", "test"]))
    if options.json:
        options.json.write_text(json.dumps({**record, "found": rounded(found), "chosen": rounded(shown)}, indent=1))


def choose(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return the config as it is, and the best of each kind by validation."""

    def best(names: list[str]) -> str:
        return max(names, key=lambda name: statistics.mean(found[name]["validation"]))

    apart = [name for name in found if name.startswith("four")]
    return list(dict.fromkeys([REFERENCE, best([*SIZES.values()]), best(apart)]))


def run(file: str | None, sets: Sets) -> dict[str, Any]:
    """Run a config with settings; return its result."""
    with tempfile.TemporaryDirectory() as folder:
        c = config.load(file, sets)
        return rundir.read_result(experiment.run(c, str(Path(folder, "r")), "islands", Observer()))


if __name__ == "__main__":
    main()
