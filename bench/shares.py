"""What a run's generations spend their time on: a profile of `neuroevo run`, part by part.

    python bench/shares.py [--rounds 3] [--set KEY=VALUE ...] [CONFIG]

Runs of the config, by default the built-in one, each in a process of its own under Python's profiler, one thread unless
OMP_NUM_THREADS says otherwise; medians of their shares of the time from the first generation to the end. Checkpoints
are written by a thread of their own: its processor time is beside the total, not in it. PYTHONPATH may name an older
checkout.
"""

import argparse
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

PARTS = {  # what is shown -> functions, by module and name
    "proposing": [("search/algorithms/ga.py", "ask")],
    "scoring": [("problems/scoring.py", "fitness")],
    "validation": [("engine/loop.py", "best")],
    "statistics": [("engine/loop.py", name) for name in ("statistics_of", "record")],
    "history and checkpoints": [("experiments/recorders.py", name) for name in ("begin", "generation", "end", "close")],
    "terminal": [("experiments/terminal.py", name) for name in ("begin", "generation", "end", "close")],
}
BESIDE = ("statistics", "history and checkpoints", "terminal")
WHOLE = ("engine/observer.py", "watch")


def profile(words: list[str]) -> dict[str, float]:
    """Run `neuroevo run` with some words in this process; return the seconds of each part, of all, and of threads."""
    from neuroevo.cli.main import main

    sys.argv = ["neuroevo", "run", *words]
    profiler, process, thread = cProfile.Profile(), time.process_time(), time.thread_time()
    try:
        profiler.runcall(main)
    except SystemExit as end:
        if end.code:
            raise
    known = pstats.Stats(profiler).stats  # type: ignore[attr-defined]

    def seconds(module: str, name: str) -> float:
        return sum(found[3] for (file, _, own), found in known.items() if own == name and file.endswith(module))

    found = {part: sum(seconds(*function) for function in functions) for part, functions in PARTS.items()}
    others = time.process_time() - process - (time.thread_time() - thread)
    return found | {"all": seconds(*WHOLE), "other threads": others}


def main() -> None:
    if os.environ.get("NEUROEVO_SHARES"):
        print("\n" + json.dumps(profile(sys.argv[1:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    words = [*filter(None, [options.config]), *(word for given in options.set for word in ("--set", given))]
    rounds: list[dict[str, float]] = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, *words, "--out", str(Path(folder) / "run")]
            own = os.environ | {"NEUROEVO_SHARES": "1"}
            done = subprocess.run(command, capture_output=True, text=True, env=own)
        if done.returncode:
            sys.exit(done.stderr)
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'part':26}{'seconds':>9}{'share':>9}")
    for part in (*PARTS, "other threads"):
        share = statistics.median(found[part] / found["all"] for found in rounds)
        print(f"{part:26}{statistics.median(found[part] for found in rounds):9.3f}{100 * share:8.1f}%")
    rest = statistics.median(1 - sum(found[part] for part in PARTS) / found["all"] for found in rounds)
    beside = statistics.median(sum(found[part] for part in BESIDE) / found["all"] for found in rounds)
    print(f"{'the rest':35}{100 * rest:8.1f}%")
    print(f"{'all':26}{statistics.median(found['all'] for found in rounds):9.3f}")
    print(f"{', '.join(BESIDE)}: {100 * beside:.1f}%")


if __name__ == "__main__":
    main()
