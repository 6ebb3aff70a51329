"""The precision of scoring: half of it where that is clearly quicker here, which a short probe finds out.

Half precision is bfloat16, which ends where float32 ends, so that whoever is valid in one is valid in the other. Only a
GPU that has float16 alone is given that: it ends at 65,504, and who goes beyond is scored again (`scoring.fitness`).
A clock decides, so that near the threshold two runs of one seed could come out otherwise: what was found is remembered,
a machine answers once, and a checkpoint holds the answer.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch

from neuroevo import devices
from neuroevo.engine.execution import AUTO, FULL, Execution, Precision
from neuroevo.errors import InputError
from neuroevo.problems.metric import OfGenome, OfModule
from neuroevo.problems.scoring import evaluate
from neuroevo.problems.supervised import Supervised

CLEARLY = 1.3  # as much quicker scoring must be, those that are scored again among it
LEAST = 2.0**27  # floating-point operations of a generation for each processor: a millisecond or two, nothing to win
GPU = 128  # processors of one, about
SECONDS, ROUNDS = 0.15, (3, 7)  # that the probe takes, about; how often it scores at least and at most
PIECE = 2**31  # floating-point operations of what it scores, for each processor that does, at most
GENES = 2**22  # of the genomes that it scores, about

Remember = Callable[[str, Callable[[], float]], Any]  # a value by a key, found where none is known
Clock = Callable[[], float]


class Choice(NamedTuple):
    """A precision, and how it was come by."""

    precision: str
    line: str = ""  # for a run's log; empty where nothing was measured


@dataclass(frozen=True)
class Probe:
    """Times a slice of a search's scoring."""

    of: Supervised
    population: int
    samples: int  # of a generation's batch
    clock: Clock | None = None  # of the device where none is given

    def ratio(self, lower: str) -> float:
        """Return how many times as fast as in float32 a slice is scored in a lower precision.

        A CPU is shared, and several threads wait for each other: there the time that counts is what one thread spends
        that does it alone.
        """
        with devices.one_thread():
            return float(self.of.executions.fit(lambda execution: self._ratio(execution, lower)))

    def _ratio(self, execution: Execution, lower: str) -> float:
        of, device = self.of, self.of.network.device
        cpu = device.type == "cpu"
        clock = self.clock or (time.thread_time if cpu else time.perf_counter)
        start, genes, samples = of.start[:1], of.start.shape[1], min(self.samples, execution.samples)
        piece = PIECE * (1 if cpu else GPU) // (2 * genes * samples)
        n = max(1, min(self.population, execution.individuals, GENES // genes, piece))
        noise = torch.randn(n, genes, generator=torch.Generator().manual_seed(0)).to(start.device)
        genomes, index = start + of.sigma * noise, of.splits[of.fitness.split][:samples]
        judgement = of.judgement(of.fitness_metrics(), constrained=True)
        least = {FULL: torch.inf, lower: torch.inf}
        began = clock()
        for i in range(ROUNDS[1]):  # the least of several: what else goes on here only adds
            for precision in least:
                devices.synchronise(device)
                before = clock()
                evaluate(judgement, genomes, index, execution._replace(precision=precision))
                devices.synchronise(device)
                least[precision] = min(least[precision], clock() - before)
            if i + 1 >= ROUNDS[0] and clock() - began > SECONDS:
                break
        return least[FULL] / max(least[lower], 1e-9)

    def key(self, lower: str) -> str:
        """Return a hash of all that the time depends on: machine, library, threads, network, sizes and metrics."""
        of, now = self.of, self.of.executions.now
        network, cut = of.network, of.network.backbone.cut
        about = {
            "machine": [devices.model(network.device), torch.__version__, now.threads],
            "network": [network.backbone.name, network.name, network.width, None if cut is None else cut.places],
            "genes": [network.layout.to_json(), network.method, of.calibrates],
            "sizes": [self.population, self.samples, now.classes, now.individuals, now.samples, now.home],
            "metrics": [of.fitness.metrics, of.fitness.ties],
            "precision": lower,
            **({"constraints": [each.of for each in of.subject_to]} if of.subject_to else {}),
        }
        return "precision-" + hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def check(precision: str, device: torch.device) -> None:
    """See that a device scores in a precision; InputError (`precision`) if not."""
    if precision not in get_args(Precision):
        raise InputError(f"{precision!r} given; {', '.join(get_args(Precision))} expected", option="precision")
    if precision == "float16" and device.type != "cuda":
        raise InputError("float16 is for GPUs; on a CPU give auto, bfloat16 or float32", option="precision")


def lower(device: torch.device) -> str:
    """Return the half precision of a device: bfloat16, float16 on GPUs that compute in that alone.

    Newer ones have one rate for both, and float16 would have a generation wait to see who went beyond its range.
    """
    old = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8
    return "float16" if old else "bfloat16"


def matters(of: Supervised, population: int, samples: int) -> bool:
    """Tell whether half precision could make a difference to the time of a search.

    It couldn't where no metric of fitness looks at logits, where another runtime than torch gives them, where scoring
    is too little work, and where too many must be scored again; and what another executor takes isn't known here.
    """
    chosen = [*of.fitness_metrics(), *(posed.score for posed in of.constraints)]
    logits = any(not isinstance(metric, OfGenome | OfModule) for metric in chosen)
    work = 2.0 * of.start.shape[1] * population * samples  # of a layer; a convolution's is more
    processors = of.executions.now.threads if of.network.device.type == "cpu" else GPU
    some = CLEARLY * of.rescored(population) < population
    return logits and some and not foreign(of) and work >= LEAST * processors and getattr(of.executor, "alike", False)


def foreign(of: Supervised) -> bool:
    """Tell whether another runtime than torch computes what evolves, in a precision of its own."""
    cut = of.network.backbone.cut
    return cut is not None and cut.foreign


def choose(of: Supervised, population: int, samples: int, *, remember: Remember, clock: Clock | None = None) -> Choice:
    """Choose the precision in which populations are scored on batches of so many samples.

    `remember` knows what was found before on this machine.
    """
    if not matters(of, population, samples):
        return Choice(FULL)
    half, probe = lower(of.network.device), Probe(of, population, samples, clock)
    ratio = float(remember(probe.key(half), lambda: round(probe.ratio(half), 3)))
    whole = population / (population / ratio + of.rescored(population))  # those that are scored again count
    if whole >= CLEARLY:
        return Choice(half, f"scores in {half}: {whole:.1f} times as fast as in float32 here")
    return Choice(FULL, f"scores in float32: in {half} it would be {whole:.1f} times as fast here")


def settle(
    of: Supervised,
    asked: str,
    population: int,
    samples: int,
    *,
    remember: Remember,
    log: Callable[[str], None],
    clock: Clock | None = None,
) -> None:
    """Put the precision that is asked for, or what `auto` comes to, into the execution in force; `log` is told."""
    check(asked, of.network.device)
    if foreign(of) and asked not in (AUTO, FULL):
        raise InputError(f"{asked}, but an ONNX file has a precision of its own; give auto", option="precision")
    if asked == AUTO:
        asked, line = choose(of, population, samples, remember=remember, clock=clock)
        if line:
            log(line)
    of.executions.now = of.executions.now._replace(precision=asked)
