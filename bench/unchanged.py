"""Six runs, and the hashes of what they end in: a change that should change nothing gives the same lines.

    python bench/unchanged.py DIR [--go-on]

One thread; digits, whose features are computed once. DIR gets a folder for each run; with --go-on those that another
commit left there are gone on with, as far again, so that its checkpoints are shown to resume.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # other threads round otherwise; before torch is imported

import h5py
from safetensors import safe_open

RUNS = Path(__file__).parents[1] / "runs"
SAME = ["memory.limit=1073741824", "fitness.precision=float32"]  # slices go by the one, a clock decides on the other
DEEP = ["backbone.trainable=[blocks.6, conv_head, bn2]", "memory.plan=loop", "algorithm.population=6", "data.limit=400",
        "fitness.samples=64", "validate.every=2"]  # fmt: skip
SIX: dict[str, tuple[str, list[str], str]] = {  # name -> command, its arguments, and what more budget is
    "default": ("run", [str(RUNS / "digits.yaml"), "budget.generations=60"], "budget.generations=90"),
    "hybrid": ("run", [str(RUNS / "hybrid.yaml"), "refine.optimizer_state=inherit", "budget.generations=10"],
               "budget.generations=14"),
    "deep": ("run", [str(RUNS / "digits.yaml"), *DEEP, "budget.generations=4"], "budget.generations=6"),
    "front": ("run", [str(RUNS / "digits.yaml"), "fitness={metrics: [cross_entropy, weight_norm]}",
                      "algorithm.population=64", "budget.generations=30"], "budget.generations=40"),
    "tune": ("tune", [str(RUNS / "tune_lr.yaml"), "data={name: digits, image_size: 48}", "tune.budget.generations=2"],
             "tune.budget.generations=3"),
    "bench": ("bench", [str(RUNS / "bench_digits.yaml")], ""),
}  # fmt: skip
ARMS = ["--arms", "ga,hybrid", "--seeds", "1", "--budget", "samples=1_000_000"]


def neuroevo(*words: str) -> None:
    """Run a command of the command line; SystemExit where it fails."""
    done = subprocess.run([sys.executable, "-m", "neuroevo", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-2000:]}")


def short(content: bytes) -> str:
    """Return the beginning of a hash."""
    return hashlib.sha256(content).hexdigest()[:16]


def genomes(folder: Path) -> bytes:
    """Return the newest checkpoint's genomes."""
    with h5py.File(max((folder / "checkpoints").glob("*.h5"))) as file:
        return bytes(file["population/genomes"][()].tobytes())


def history(folder: Path) -> bytes:
    """Return the history, seconds aside."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return json.dumps([{k: v for k, v in line.items() if k != "seconds"} for line in lines], sort_keys=True).encode()


def champion(folder: Path) -> bytes:
    """Return the champion's weights by name, without the note."""
    with safe_open(folder / "champion.safetensors", "np") as file:
        return b"".join(name.encode() + file.get_tensor(name).tobytes() for name in sorted(file.keys()))


def trials(folder: Path) -> bytes:
    """Return the table of trials."""
    return json.dumps(list(csv.reader((folder / "trials.csv").read_text().splitlines()))).encode()


def lines(name: str, folder: Path) -> list[str]:
    """Return a line for each run in a folder, and for a search of hyperparameters."""
    if name == "bench":
        return [line for run in sorted(folder.glob("runs/*/*")) for line in lines(f"bench {run.parent.name}", run)]
    found = [f"{name:<13} genomes {short(genomes(folder))}  history {short(history(folder))}  "
             f"champion {short(champion(folder))}"]  # fmt: skip
    if name == "tune":
        search = folder / "tune"
        found += [f"tune: search  genomes {short(genomes(search))}  history {short(history(search))}  "
                  f"trials   {short(trials(folder))}"]  # fmt: skip
    return found


def main() -> None:
    """Run the six, and print the hashes of what they end in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--go-on", action="store_true")
    given = parser.parse_args()
    for name, (command, (file, *sets), more) in SIX.items():
        folder = given.folder / name
        if not given.go_on:
            words = [word for text in [*SAME, *sets] for word in ("--set", text)]
            neuroevo(command, file, *words, *(ARMS if command == "bench" else []), "--out", str(folder))
        elif more and command == "run":
            neuroevo("resume", str(folder), "--set", more)
        print("\n".join(lines(name, folder)), flush=True)


if __name__ == "__main__":
    main()
