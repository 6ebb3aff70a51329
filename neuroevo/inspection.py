"""What a run, a checkpoint, a config, a table or a machine holds, as rows of names and values to print."""

import inspect
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuroevo import (
    cache,
    caveats,
    checkpoint,
    composition,
    config,
    devices,
    experiment,
    features,
    hdf5,
    heads,
    inventory,
    rundir,
)
from neuroevo.arms import ARMS
from neuroevo.backbones import Backbone
from neuroevo.config import Config
from neuroevo.errors import InputError
from neuroevo.genome import Layout
from neuroevo.metrics import reported

Rows = list[tuple[str, str]]


def describe(path: str) -> tuple[str, Rows]:
    """Return what a run's folder or a checkpoint file holds; InputError where it is neither, or is damaged."""
    if Path(path).is_dir():
        folder = rundir.existing(path)
        bad: list[str] = []
        saved, _ = experiment.reopened(folder, bad.append)
        if saved is None:
            raise InputError(f"{path}: no checkpoint yet")
        result = rundir.read_result(folder, bad.append)
        rundir.read_history(folder, bad.append, compare=saved)
        rundir.read_lines(folder / rundir.LINEAGE, bad.append, rundir.of_lineage)
        rundir.read_confusion(folder, bad.append)
        rows: Rows = [
            ("status", f"{result.get('status', 'unfinished')} ({result.get('stop_reason', 'no result yet')})")
        ]
        rows += [
            ("checkpoints", ", ".join(file.name for file in reversed(checkpoint.listed(folder / rundir.CHECKPOINTS))))
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
    rows += [("population", f"{n} individuals of {g} genes")]
    rows += [
        (f"  {name}", " x ".join(map(str, shape)) or "scalar")
        for name, shape in zip(saved.layout.names, saved.layout.shapes, strict=True)
    ]
    rows += [(f"  trait {name}", str(tuple(trait.shape))) for name, trait in step.population.traits.items()]
    fitness = step.scores.values[~step.scores.invalid, 0]
    if len(fitness):
        rows += [("fitness", f"best {fitness.max():.4f}, mean {fitness.mean():.4f}")]
    rows += [("invalid", str(int(step.scores.invalid.sum())))]
    rows += front(saved)
    validation = ", ".join(f"{name} {value:.4f}" for name, value in champion.validation.items())
    about = caveats.of_kind(champion.kind, champion.generation, _record(saved), *_place(saved))
    rows += [("champion", f"{about} ({validation})")]
    rows += [("cost", ", ".join(f"{name} {count:,}" for name, count in step.cost.record().items()))]
    rows += [("data", str(saved.data))] if saved.data else []
    rows += [("seconds", f"{step.seconds:.1f}"), ("seed", str(saved.seed)), ("device", saved.device)]
    rows += [("plan", ", ".join(f"{key} {value}" for key, value in saved.plan._asdict().items()))]
    rows += [("versions", ", ".join(f"{key} {value}" for key, value in saved.versions.items()))]
    with hdf5.opened(saved.path) as file:
        rows += [(f"/{name}", f"{item.shape} {item.dtype}") for name, item in hdf5.numbers(file)]
    return rows


def _record(saved: checkpoint.Checkpoint) -> dict[str, Any]:
    """Return the config in a checkpoint, {} where it can't be read."""
    try:
        found = config.parse(saved.config, str(saved.path))
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def _place(saved: checkpoint.Checkpoint) -> tuple[int | None, int | None]:
    """Return the number of a champion in the front of its checkpoint, and that generation; None without a front."""
    if saved.front is None:
        return None, None
    front = {str(i): genome for i, genome in enumerate(saved.front.genomes)}
    return experiment.member_of(front, saved.step.champion), saved.step.generation


def front(saved: checkpoint.Checkpoint) -> Rows:
    """Return each member of a checkpoint's front with its objectives as reported, by the generation's own batch."""
    if saved.front is None:
        return []
    names = saved.objectives
    lines = [", ".join(f"{name} {reported(name, value):.4f}" for name, value in zip(names, member, strict=True))
             for member in saved.front.fitness.tolist()]  # fmt: skip
    return [(f"{checkpoint.FRONT}{i}", line) for i, line in enumerate(lines)]


def names(kind: str | None) -> list[tuple[str, Rows]]:
    """Return, for one kind of part or all, each name in its table with its options."""
    tables = {**config.TABLES, "arm": ARMS}
    if kind is not None and kind not in tables:
        raise InputError(f"list: no kind {kind!r}; there are: {', '.join(tables)}")
    return [(k, [_part(name, tables[k][name]) for name in tables[k]]) for k in ([kind] if kind else tables)]


def _part(name: str, function: Callable[..., Any]) -> tuple[str, str]:
    options = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def spelled(p: inspect.Parameter) -> str:
        if p.default is p.empty:
            return p.name
        return f"{p.name}={getattr(p.default, '__name__', p.default)}"

    first = (inspect.getdoc(function) or "").split("\n")[0]
    return name, f"{first}  ({', '.join(map(spelled, options))})" if options else first


def estimate(c: Config) -> Rows:
    """Return what a run will need; it reads the data set, builds the network, and measures this machine."""
    device = devices.resolve(c.device)
    whole, splits = composition.dataset(c)
    backbone = composition.build_backbone(c, whole)
    dims, head = composition.dimensions(c, (whole, splits), backbone)
    genes, seen = dims.genes, dims.seen
    c.algorithm.bound()(Layout(("genes",), ((genes,),)))  # which refuses what can't be
    own = composition.sizes(c)
    n = own.later

    def until(limit: int | None, begin: int, each: int) -> int | None:
        return limit and 1 + max(0, -(-(limit - begin) // each))

    counts = {name: len(index) for name, index in splits.items()}
    begin, each = composition.takes(c, own.first, counts), composition.takes(c, n, counts, own.asked)
    budgets = [c.budget.generations]
    budgets += [until(c.budget.samples, begin.samples, each.samples)]
    budgets += [until(c.budget.forward_samples, begin.forward, each.forward)]
    generations = min((g for g in budgets if g), default=None)
    rows: Rows = [("images", ", ".join(f"{name} {len(index):,}" for name, index in splits.items()))]
    rows += inventory.rows(whole, splits)
    if backbone.cut is None:
        what = f"{heads.steps(head, backbone.head)[0][0]} and on, {seen:,} features"
    else:
        what = f"all that is trainable behind {' and '.join(backbone.cut.places)}"
    rows += [("genome", f"{genes:,} genes: {what}")]
    notes = list(backbone.notes)
    heads.population_forward(head, backbone.head, (seen, len(whole.classes)), None, notes.append)
    rows += [("note", line) for line in notes]
    address = features.address(backbone, whole.images, c.features.dtype)
    there = (cache.cache_folder() / "features" / f"{address}.npy").exists()
    size = dims.stored * len(whole.labels) * (4 if c.features.dtype == "float32" else 2)
    rows += [("features", f"{size / 2**20:,.0f} MiB, {'cached' if there else 'to compute'}")]
    rows += [("population", f"{n} individuals, {4 * n * genes / 2**20:,.0f} MiB each generation")]
    if c.tune is not None:
        rows += searching(c, counts)
    if generations is None:
        return [*rows, ("generations", "until the seconds or the target")]
    later = generations - 1
    rows += [("generations", f"{generations:,}"), ("forward samples", f"{begin.forward + later * each.forward:,}")]
    rows += [("backward samples", f"{begin.backward + later * each.backward:,}")]
    seconds = _sample_seconds(backbone, head, device, genes) * (begin.samples + later * each.samples)
    noise = (
        min(_seconds(lambda: float(torch.randn(2**20, device=device).sum())) for _ in range(5)) * 2 * n * genes / 2**20
    )
    rows += [("time", f"about {seconds + generations * noise:,.0f} s, beside features and validation")]
    return rows


def searching(c: Config, counts: Mapping[str, int]) -> Rows:
    """Return what a search of hyperparameters is and takes, with so many images a split."""
    assert c.tune is not None
    space, trial = c.tune.space(), c.tune.trial
    own = composition.generation(c, counts)
    count = int(c.tune.sampler.options.get("population", 1))
    rungs = ", ".join(map(str, trial.rungs))
    stops = f", the best {trial.keep:g} of them beyond each of {rungs}" if rungs else ""
    limits = {k: v for k, v in c.tune.budget.model_dump().items() if v is not None}
    rows = [("search", f"{c.tune.sampler.name} over {len(space.coordinates)} sides: {', '.join(c.tune.variables)}")]
    rows += [("trials", f"{count} an iteration, each {trial.generations} generations{stops}")]
    rows += [("a trial", f"{own.samples * trial.generations:,} samples, by what the config has beside the space")]
    return [*rows, ("search until", ", ".join(f"{name} {value:,}" for name, value in limits.items()))]


def _sample_seconds(backbone: Backbone, head: nn.Module, device: torch.device, genes: int) -> float:
    """Return the seconds that one sample takes one individual."""
    if backbone.cut is None:
        a, b = torch.randn(1024, 256, device=device), torch.randn(256, 2048, device=device)
        return min(_seconds(lambda: float((a @ b).sum())) for _ in range(5)) * genes / (1024 * 256 * 2048)
    backbone.to(device)
    cut, rows = backbone.cut, torch.rand(64, backbone.cut.width, device=device)
    with torch.inference_mode():
        return min(_seconds(lambda: float(cut.rest(*cut.tensors(rows)).sum())) for _ in range(3)) / len(rows)


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def machine() -> Rows:
    """Return what this machine has: versions, devices, memory, data and cache folders."""
    rows: Rows = list(experiment.versions().items())
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
        missing = [name for name in asked if not _installed(name)]
        how = f"not installed: pip install 'neuroevo[{extra}]'"
        if 0 < len(missing) < len(asked):
            how = f"{', '.join(missing)} {how}"
        rows.append((f"extra {extra}", how if missing else "there"))
    return rows


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
