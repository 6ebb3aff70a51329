"""What benches that write their figures have in common: options, and what a figure is of."""

import argparse
import logging
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of the options that they share, with the bench's own description."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--threads", type=int, help="of torch; all cores by default")
    made.add_argument("--small", action="store_true", help="tiny sizes, to see that it works")
    made.add_argument("--json", type=Path, help="a file for the figures")
    return made


def named(
    made: argparse.ArgumentParser, option: str, given: str, known: dict[str, Any], between: str = ","
) -> list[str]:
    """Return the names that an option gives, none if it is empty; exit status 2 for one that is not known."""
    names = given.split(between) if given else []
    if unknown := [name for name in names if name not in known]:
        made.error(f"{option} {','.join(unknown)}: none of {', '.join(known)}")
    return names


def begin(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Check rounds, set torch's threads as asked, and silence peers that tell of each problem."""
    if options.rounds < 1:
        made.error("--rounds: at least 1")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    logging.disable(logging.INFO)


def about(rounds: int, device: torch.device) -> dict[str, Any]:
    """Return, and print, the command, commit and machine that figures are of."""
    found = {
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit(),
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
    }
    print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found


def commit() -> str:
    """Return the short hash of the commit that is checked out, with a + where files differ from it."""
    run = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(run, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def processor() -> str:
    """Return what the processor calls itself (Linux), or the platform's word for it."""
    known = Path("/proc/cpuinfo")
    found = [line.split(":", 1)[1].strip() for line in known.read_text().splitlines() if line.startswith("model name")]
    return found[0] if found else platform.processor()
