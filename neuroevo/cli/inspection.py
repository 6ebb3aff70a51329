"""The content of a run, a checkpoint, a config, a table or a machine, as rows of names and values to print."""

import inspect
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from neuroevo import caveats, config, devices
from neuroevo.bench import arms, benchmark
from neuroevo.bench.arms import ARMS
from neuroevo.config import Config
from neuroevo.data import cache, feature_cache, inventory
from neuroevo.data.arrays import Vectors
from neuroevo.errors import InputError
from neuroevo.experiments import conclusion, costs, experiment, folds, log, reopen, sizes
from neuroevo.forecast.bench import Comparison, estimate_bench
from neuroevo.forecast.folds import estimate_folds
from neuroevo.forecast.forecaster import Forecaster
from neuroevo.forecast.length import run_length
from neuroevo.forecast.search import estimate_search
from neuroevo.forecast.seconds import breakdown, duration
from neuroevo.networks import heads
from neuroevo.problems.constraints import VIOLATION
from neuroevo.problems.metric import as_reported
from neuroevo.storage import checkpoint, files, generations, hdf5, predictions, records, rundir
from neuroevo.tuning import trials

Rows = list[tuple[str, str]]


def describe(path: str) -> tuple[str, Rows]:
    """Return the content of a run's folder or a checkpoint file; InputError where it is neither, or is damaged."""
    if Path(path).is_dir():
        folder = rundir.find(path)
        bad: list[str] = []
        if reopen.from_python(folder):
            saved = checkpoint.newest(folder / rundir.CHECKPOINTS, bad.append)
            reopen.tell_gone(folder, saved, bad.append)
        else:
            saved, _ = reopen.reopen(folder, bad.append)
        if saved is None:
            raise reopen.without_checkpoint(path)
        result = rundir.read_result(folder, bad.append)
        rundir.read_history(folder, bad.append, compare=saved)
        files.read_lines(folder / rundir.LINEAGE, bad.append, records.of_lineage)
        rundir.read_islands(folder, bad.append)
        rundir.read_confusion(folder, bad.append)
        predictions.read(folder, bad.append)
        rundir.check_beside(folder, bad.append)
        rows: Rows = [
            ("status", f"{result.get('status', 'unfinished')} ({result.get('stop_reason', 'no result yet')})")
        ]
        rows += [
            ("checkpoints", ", ".join(file.name for file in reversed(generations.paths(folder / rundir.CHECKPOINTS))))
        ]
        rows += [("damaged", line) for line in bad]
        rows += [("warning", line) for line in result.get("warnings", [])]
        return path, rows + _checkpoint(saved)
    if not Path(path).is_file():
        raise InputError(f"{path}: neither a run's folder nor a checkpoint")
    return path, _checkpoint(checkpoint.read(Path(path)))


def _checkpoint(saved: checkpoint.Checkpoint) -> Rows:
    step, champion = saved.step, saved.step.champion
    n, g = step.population.genomes.shape
    rows: Rows = [("file", f"{saved.path} (checksum good)"), ("generation", str(step.generation))]
    genome = _record(saved).get("genome") or {}
    space = genome.get("space") or ("full" if not genome.get("levels") else "levels")
    name = space.get("name") if isinstance(space, dict) else space
    of = "" if name == "full" else f", in the space {name}"
    apart = _record(saved).get("islands")
    on = f" on {apart['count']} islands" if isinstance(apart, dict) and "count" in apart else ""
    rows += [("population", f"{n} individuals of {g} genes{of}{on}")]
    rows += [
        (f"  {name}", " x ".join(map(str, shape)) or "scalar")
        for name, shape in zip(saved.layout.names, saved.layout.shapes, strict=True)
    ]
    rows += [(f"  trait {name}", str(tuple(trait.shape))) for name, trait in step.population.traits.items()]
    fitness = step.scores.values[~step.scores.invalid, 0]
    if len(fitness):
        rows += [("fitness", f"best {fitness.max():.4f}, mean {fitness.mean():.4f}")]
    rows += [("invalid", str(int(step.scores.invalid.sum())))]
    if step.scores.violation is not None:
        met = int((step.scores.violation == 0).sum())
        least = f"least violation {step.scores.violation.min():.4f}"
        beyond = champion.validation.get(VIOLATION)
        own = "champion feasible on validation" if beyond == 0 else f"champion beyond by {beyond:.4f} on validation"
        rows += [("feasible", f"{met} of {n} individuals ({least}); {own}")]
    rows += front(saved)
    validation = ", ".join(f"{name} {value:.4f}" for name, value in champion.validation.items() if value == value)
    about = caveats.of_kind(champion.kind, champion.generation, _record(saved), *_place(saved))
    rows += [("champion", f"{about} ({validation or 'nothing is left to validate by'})")]
    rows += [("cost", ", ".join(f"{name} {count:,}" for name, count in step.cost.record().items()))]
    rows += [("data", str(saved.data))] if saved.data else []
    rows += [("seconds", f"{step.seconds:.1f}"), ("seed", str(saved.seed)), ("device", saved.device)]
    rows += [("plan", ", ".join(f"{key} {value}" for key, value in saved.plan._asdict().items()))]
    rows += [("versions", ", ".join(f"{key} {value}" for key, value in saved.versions.items()))]
    with checkpoint.open_file(saved.path) as file:
        rows += [(f"/{name}", f"{item.shape} {item.dtype}") for name, item in hdf5.numbers(file)]
    return rows


def _record(saved: checkpoint.Checkpoint) -> dict[str, Any]:
    """Return the config in a checkpoint, {} where it can't be read."""
    try:
        found = config.parse_sections(saved.config, str(saved.path))
    except InputError:
        return {}
    return found if records.of_config(found) else {}


def _place(saved: checkpoint.Checkpoint) -> tuple[int | None, int | None]:
    """Return the number of a champion in the front of its checkpoint, and that generation; None without a front."""
    if saved.front is None:
        return None, None
    front = {str(i): genome for i, genome in enumerate(saved.front.genomes)}
    return conclusion.member_of(front, saved.step.champion), saved.step.generation


def front(saved: checkpoint.Checkpoint) -> Rows:
    """Return each member of a checkpoint's front with its objectives as as_reported, by the generation's own batch."""
    if saved.front is None:
        return []
    names = saved.objectives
    rows: Rows = []
    for i, member in enumerate(saved.front.fitness.tolist()):
        pairs = zip(names, member, strict=True)
        objectives = ", ".join(f"{name} {as_reported(name, value):.4f}" for name, value in pairs)
        rows += [(f"{checkpoint.FRONT}{i}", objectives)]
    return rows


def names() -> list[tuple[str, Rows]]:
    """Return, for each kind of part, each name in its table with its options."""
    tables = {**config.TABLES, "arm": ARMS}
    return [(kind, [_part(name, table[name]) for name in table]) for kind, table in tables.items()]


def _part(name: str, function: Callable[..., Any]) -> tuple[str, str]:
    options = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def text(p: inspect.Parameter) -> str:
        if p.default is p.empty:
            return p.name
        return f"{p.name}={getattr(p.default, '__name__', p.default)}"

    first = (inspect.getdoc(function) or "").split("\n")[0]
    return name, f"{first}  ({', '.join(map(text, options))})" if options else first


def comparison(
    base: dict[str, Any], names: Sequence[str], seeds: int | None, splits: int | None, budget: str | None
) -> Comparison:
    """Return a benchmark as `neuroevo bench` takes it, with the seeds and splits that it has where none are given."""
    seeds, splits = 5 if seeds is None else seeds, 1 if splits is None else splits
    benchmark.check_counts(seeds=seeds, splits=splits)
    benchmark.parse_budget(budget)
    return Comparison(base, arms.read_arms(names), seeds, splits, budget)


def estimate(c: Config, comparison: Comparison | None = None, begun: float | None = None) -> Rows:
    """Return the sizes and the time of a run, a search or a benchmark; parts of it are run to be timed.

    `begun` is when the process began, in seconds since the epoch, where its start counts.
    """
    begun = time.time() if begun is None else begun
    asked, chooses = c, comparison is None and config.chooses(c)
    ready = experiment.prepare(folds.fold_of(c, 1) if chooses else c)
    c, (whole, splits), backbone = ready.config, ready.given, ready.backbone
    started = time.time() - begun
    dims, head = sizes.dimensions(c, ready.given, backbone)
    genes, seen = dims.genes, dims.seen
    algorithm = c.search()
    algorithm.check(genes)
    n = algorithm.later
    counts = {name: len(index) for name, index in splits.items()}
    rows: Rows = [(whole.noun, ", ".join(f"{name} {len(index):,}" for name, index in splits.items()))]
    rows += inventory.rows(whole, splits)
    if backbone.cut is None:
        what = f"{heads.steps(head, backbone.head)[0][0]} and on, {seen:,} features"
    else:
        what = f"all that is trainable behind {' and '.join(backbone.cut.places)}"
    rows += [("genome", f"{genes:,} genes: {what}")]
    notes = list(backbone.notes)
    heads.population_forward(head, backbone.head, (seen, len(whole.classes)), None, notes.append)
    rows += [("note", line) for line in notes]
    told = [*([] if comparison else caveats.of_config(c.record(), genes)), *inventory.absent(whole, splits)]
    rows += [("warning", line) for line in told]
    if isinstance(whole.images, Vectors):
        how = "as they are"
    else:
        with config.at(**config.READING):
            there = feature_cache.features_file(backbone, whole.images, c.features.dtype).exists()
        how = "cached" if there else "to compute"
    size = dims.stored * len(whole.labels) * (4 if c.features.dtype == "float32" else 2)
    rows += [("features", f"{size / 2**20:,.0f} MiB, {how}")]
    forecaster = Forecaster(ready)
    if comparison is not None:
        return rows + bench_rows(forecaster, comparison, started)
    on = f" on {c.islands.count} islands" if c.islands else ""
    rows += [("population", f"{n} individuals{on}, {4 * n * genes / 2**20:,.0f} MiB each generation")]
    if c.tune is not None:
        return rows + search_rows(forecaster, counts, started)
    if chooses:
        return rows + folds_rows(forecaster, replace(asked, memory=c.memory), started)
    seconds = forecaster.run(c) | {"start": started}
    length = length_rows(forecaster.settle(c), counts)
    sooner = c.budget.target is not None or c.validate.patience is not None
    return [*rows, *length, ("time", breakdown(seconds) + (", or less" if sooner else ""))]


def length_rows(c: Config, counts: Mapping[str, int]) -> Rows:
    """Return the length of a run, with so many images a split."""
    found = run_length(c, counts)
    if found.generations is None:
        return [("generations", "until the seconds or the target")]
    rows: Rows = [("generations", f"{found.generations:,}"), ("forward samples", f"{found.cost.forward:,}")]
    return [*rows, ("backward samples", f"{found.cost.backward:,}")]


def folds_rows(forecaster: Forecaster, c: Config, started: float) -> Rows:
    """Return the size and the time of searches that choose, and of the fit to train and validation together."""
    found = estimate_folds(forecaster, c)
    several, last = c.validate.folds, found.last.generations
    rows = [("searches", f"{several}, each validated on one fold" if several else "1, on the data's own split")]
    for name, length in (("of each", found.each), ("fit to all", found.last)):
        if length.generations is None:
            rows += [(name, "until its share of the seconds is over")]
        else:
            size = f"{length.cost.forward:,} forward and {length.cost.backward:,} backward samples"
            rows += [(name, f"{length.generations:,} generations{' at most' * (length is found.last)}, {size}")]
    sooner = ", or less" if last is not None else ""
    return [*rows, ("time", breakdown(found.seconds | {"start": started}) + sooner)]


def bench_rows(forecaster: Forecaster, comparison: Comparison, started: float) -> Rows:
    """Return the size and the time of a benchmark."""
    c = forecaster.ready.config
    given = benchmark.terms(c, forecaster.ready.given[1], comparison.budget)
    benchmark.check_splits(c, forecaster.ready.given[0], comparison.splits)
    configs = {
        arm: arms.configure(comparison.base, arm, overlay, given, seed=c.seed, split=c.data.split_seed)
        for arm, overlay in comparison.overlays.items()
    }
    benchmark.demand(comparison.base, comparison.overlays, configs)
    found = estimate_bench(forecaster, comparison, given)
    runs = comparison.seeds * comparison.splits
    what = f"{len(comparison.overlays)} arms x {comparison.seeds} seeds x {comparison.splits} splits"
    rows = [("runs", f"{len(comparison.overlays) * runs:,}: {what}, {given.samples:,} samples each")]
    rows += [(f"  {arm}", f"about {duration(seconds)} a run") for arm, seconds in found.arms.items()]
    return [*rows, ("time", breakdown(found.seconds | {"start": started}) + ", one run after another")]


def search_rows(forecaster: Forecaster, counts: Mapping[str, int], started: float) -> Rows:
    """Return the size and the time of a search and of the final run after it, with so many images a split."""
    c = forecaster.ready.config
    assert c.tune is not None
    space, trial = c.tune.space(), c.tune.trial
    own = costs.generation(c, counts)
    found = estimate_search(forecaster)
    count = found.trials
    rungs = ", ".join(map(str, trial.rungs))
    stops = f", the best {trial.keep:g} of them beyond each of {rungs}" if rungs else ""
    limits = {k: v for k, v in c.tune.budget.model_dump().items() if v is not None}
    rows = [("search", f"{c.tune.sampler.name} over {len(space.coordinates)} sides: {', '.join(c.tune.variables)}")]
    rows += [("trials", f"{count} an iteration, each {trial.generations} generations{stops}")]
    rows += [("a trial", f"{own.samples * trial.generations:,} samples, by what the config has beside the space")]
    rows += [("search until", ", ".join(f"{name} {value:,}" for name, value in limits.items()))]
    rows += [("an iteration", f"about {duration(found.iteration)}")]
    warning = trials.crowd_warning(c, count)
    if warning is not None:
        rows += [("warning", warning)]
    again = [key for key in c.tune.variables if key in ("data.image_size", "data.augment")]
    if again:
        dearest = duration(max(found.features, default=0.0))
        rows += [("trials' features", f"each further value of {' and '.join(again)} costs up to about {dearest} once")]
    if c.tune.rest.final:
        rows += [(f"final run: {name}", value) for name, value in length_rows(forecaster.settle(c), counts)]
    sooner = c.tune.budget.target is not None or c.tune.rest.patience is not None
    seconds = found.seconds | {"start": started}
    return [*rows, ("time", breakdown(seconds) + (", or less" if sooner else ""))]


def machine() -> Rows:
    """Return the means of this machine: versions, devices, memory, data and cache folders."""
    rows: Rows = list(log.versions().items())
    rows += [("system", platform.platform()), ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors")]
    rows += [("auto device", str(devices.resolve("auto")))]
    if torch.cuda.is_available():
        rows += [(f"cuda:{i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    rows += [("memory free", f"{devices.available_memory(torch.device('cpu')) / 2**30:.1f} GiB")]
    rows += [("NEUROEVO_DATA", os.environ.get("NEUROEVO_DATA", "not set")), ("cache", str(cache.cache_folder()))]
    return rows + extras()


def extras() -> Rows:
    """Return each extra of the package, as it was installed, and whether what it asks for is there."""
    rows: Rows = []
    package = metadata.distribution("neuroevo")
    for extra in package.metadata.get_all("Provides-Extra") or []:
        of_extra = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
        asked = [re.split(r"[^\w.-]", line)[0] for line in package.requires or [] if of_extra.search(line)]
        missing = [name for name in asked if not _is_installed(name)]
        how = f"not installed: pip install 'neuroevo[{extra}]'"
        if 0 < len(missing) < len(asked):
            how = f"{', '.join(missing)} {how}"
        rows.append((f"extra {extra}", how if missing else "there"))
    return rows


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
