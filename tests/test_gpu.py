"""All that a config can name, on a GPU on paper: run, resume, evaluate and export, with no device mistake.

Where this machine has a GPU, all of it is done there as well. `paper_gpu` says what it refuses. Where a run's numbers
are compared with those of a run on the CPU they are the same, since it draws by the same generator.
"""

import json
import tempfile
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import sklearn
import torch
from conftest import Quiet, scores_of
from paper_gpu import CUDA, Gpu, Paper, Waits, paper_gpu
from pydantic import BaseModel
from real_gpu import GPUS
from torch import Tensor, nn

import neuroevo
from neuroevo import devices
from neuroevo.config import Config, load
from neuroevo.config.parts import TABLES, Part, schema
from neuroevo.data import staging
from neuroevo.data.samples import Features
from neuroevo.engine.cost import Budget
from neuroevo.engine.genome import Layout
from neuroevo.engine.loop import Step
from neuroevo.experiments import experiment, export
from neuroevo.experiments.signals import Signals
from neuroevo.problems import intervals, precision, slicing
from neuroevo.search.operators import crossover
from neuroevo.storage import rundir
from neuroevo.tuning import tune

# Digits' own pixels.
BASE = [
    "device=cuda", "backbone={name: none, weights: none}", "data={name: digits, image_size: null, limit: 300}",
    "memory.limit=1e8", "algorithm.population=8", "budget.generations=4", "fitness.samples=60", "validate.every=2",
]  # fmt: skip
LEARN = ["refine.steps=2", "refine.batch_size=30"]
MLP = ["head={name: mlp, hidden: [8]}", "head.init=default"]
DROPOUT = ["head={name: mlp, hidden: [8], dropout: 0.1}", "head.init=default"]
FLIP = ["data.augment=[{name: RandomHorizontalFlip}]", "data.limit=200"]
# A network of timm's own tests, of which a stage evolves.
DEEP = [
    "backbone={name: timm/test_resnet, weights: none, trainable: [layer4]}", "data.image_size=32", "data.limit=120",
    "algorithm.population=4", "fitness.samples=20", "head.init=default", "memory.limit=1e9",
]  # fmt: skip
# Digits in two groups, as an .npz file.
FOLDER = tempfile.TemporaryDirectory()
TABLE = np.loadtxt(Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz", np.int64, delimiter=",")[:300]
np.savez(Path(FOLDER.name, "d.npz"), x=TABLE[:, :-1].astype(np.float32), y=TABLE[:, -1], groups=np.arange(300) % 2)
GROUPS = [f"data={{name: arrays, file: {FOLDER.name}/d.npz}}"]
CASES: dict[str, list[str]] = {
    # Genetic algorithms: a selection, a crossover, a mutation and a metric at a time.
    "default": ["validate.metric=auroc"],
    "uniform": ["algorithm.crossover=uniform", "algorithm.selection=truncation", "fitness.metric=accuracy",
                "fitness.ties=top_k", "algorithm.mutation.schedule=linear", "algorithm.averaging=false"],
    "k_point": ["algorithm.crossover=k_point", "algorithm.selection=roulette", "fitness.metric=balanced_accuracy",
                "algorithm.mutation={name: gaussian, rate: 0.5, per: tensor, schedule: step}"],
    "sbx": ["algorithm.crossover=sbx", "algorithm.selection=rank", "fitness.metric=worst_class_accuracy",
            "algorithm.mutation={name: gaussian, rate: 0.5, schedule: exponential}"],
    "row": ["algorithm.crossover=row", "algorithm.selection=stochastic_universal", "fitness.metric=macro_f1",
            "algorithm.mutation={name: gaussian, relative: true, rank: 2, schedule: warmup_cosine}"],
    "layer": ["algorithm.crossover=layer", "algorithm.selection=random", "algorithm.elites=4", "fitness.metric=mcc",
              "algorithm.mutation={name: gaussian, self_adaptive: true, schedule: one_cycle}"],
    "arithmetic": ["algorithm.crossover=arithmetic", "fitness.metric=brier", "algorithm.mutation.self_adaptive=true",
                   "algorithm.mutation.tau=null", "algorithm.mutation.schedule=constant"],
    "arithmetic, weighted": ["algorithm.crossover={name: arithmetic, weight: 0.3}", "algorithm.elites=0",
                             "fitness.metric=calibration_error"],
    "none": ["algorithm.crossover=none", "algorithm.selection=tournament", "fitness.metric=auroc"],
    "safe": [*MLP, "algorithm.mutation.safe=true", "algorithm.parents=2", "fitness.metric=kappa"],
    "ternary": ["genome.levels=ternary", "algorithm.mutation=levels", "fitness.metric={name: kappa, weights: linear}"],
    "int4": [*MLP, "genome.levels=int4", "algorithm.mutation={name: levels, schedule: constant}",
             "fitness.metric={name: kappa, weights: quadratic}"],
    "int8": ["genome.levels=int8", "algorithm.mutation={name: levels, schedule: linear}",
             "fitness.metrics=[cross_entropy, sparsity, weight_norm, distance]", "algorithm.elites=4"],
    **{f"levels, {schedule}": [f"genome.levels={kind}", f"algorithm.mutation={{name: levels, schedule: {schedule}}}"]
       for kind, schedule in (("int3", "exponential"), ("int6", "step"), ("int8", "warmup_cosine"),
                              ("int8", "one_cycle"))},
    "levels of a stage": [*DEEP, "genome.levels=int4"],
    "a cost matrix": ["fitness.metric=" + json.dumps(
        {"name": "cost_matrix", "costs": [[float(i != j) for i in range(10)] for j in range(10)]})],
    # Constraints, on classes and groups; metrics of classes and groups.
    "constraints": ["fitness.metric=recall", "fitness.ties=precision", "memory.graphs=true",
                    "fitness.subject_to=[{metric: precision, per: class, at_least: 0.5},"
                    "{metric: {name: false_positive_rate, of: 3}, at_most: 0.1}, {metric: weight_norm, at_most: 9}]"],
    "constraints on objectives": ["fitness.metrics=[{name: recall, of: 2}, false_positive_rate]", "algorithm.elites=4",
                                  "fitness.subject_to=[{metric: recall_at_precision, per: class, at_least: 0.5}]"],
    "constraints in half precision": ["algorithm={name: snes, population: 8}", "fitness.precision=bfloat16",
                                      "fitness.metric={name: recall_at_precision, of: 1, precision: 0.5}",
                                      "fitness.subject_to=[{metric: {name: precision, of: 1}, at_least: 0.5}]"],
    "recall at a precision": ["fitness.metric=recall_at_precision", "fitness.ties={name: f1, of: 1}"],
    "a false positive rate": ["fitness.metric={name: false_positive_rate, of: 1}", "fitness.ties=f1"],
    "groups": [*GROUPS, "fitness.metric=worst_group_accuracy", "fitness.ties=group_accuracy", "memory.graphs=true",
               "fitness.subject_to=[{metric: recall, per: group, at_least: 0.5}]"],
    # The other algorithms, and how samples are scored.
    "slices of three": ["memory.individuals=3", *LEARN],
    "snes": ["algorithm={name: snes, population: 8}", "fitness.precision=bfloat16", "features.dtype=float16",
             "memory.limit=null", "memory.graphs=true"],
    "snes, its rate": ["algorithm={name: snes, population: 8, sigma_rate: 0.1}", "fitness.split=validation"],
    "xnes": ["algorithm={name: xnes, population: 8}", "features={components: 4}", "fitness.precision=float16"],
    "xnes, its rate": ["algorithm={name: xnes, population: 8, sigma_rate: 0.1}",
                       "features={components: 4, whitening: 0.5}"],
    "pgpe": ["algorithm={name: pgpe, population: 8}", "fitness.balanced=true", "fitness.precision=float32"],
    "cem": ["algorithm={name: cem, population: 8}", "fitness.class_weights=true"],
    "sep_cma": ["algorithm={name: sep_cma, population: 8}", "features={standardise: false, components: null}"],
    "es": ["algorithm={name: es, population: 8}", *MLP, "head.activation=silu"],
    "pso": ["algorithm={name: pso, population: 8}", *MLP, "head.activation=tanh"],
    "pso in a ring": ["algorithm={name: pso, population: 8, neighbourhood: ring, max_velocity: null}",
                      "fitness.logit_adjustment=1.0", "fitness.samples=all", "data.long_tail=0.3"],
    "de": ["algorithm={name: de, population: 8}"],
    "de, best": ["algorithm={name: de, population: 8, strategy: best}"],
    "de, current": ["algorithm={name: de, population: 8, strategy: current_to_best}"],
    "spsa": ["algorithm={name: spsa, population: 8}"],
    "spsa by a sigma": ["algorithm={name: spsa, population: 8, sigma: 0.1}"],
    "coordinate": ["algorithm={name: coordinate, population: 8}"],
    "coordinate by a sigma": ["algorithm={name: coordinate, population: 8, sigma: 0.1}"],
    "nelder_mead": ["algorithm={name: nelder_mead, population: 8}", "features={components: 4}"],
    "hill climbing": ["algorithm={name: hill_climbing, population: 8}"],
    "hill climbing by a sigma": ["algorithm={name: hill_climbing, population: 8, sigma: 0.1}"],
    "random": ["algorithm={name: random, population: 8}"],
    "fixed": ["algorithm={name: fixed, population: 4}", *LEARN, "refine.momentum=0", "refine.back_off=true"],
    # Gradient steps.
    "mlp, normalised": ["head={name: mlp, hidden: [8, 8], norm: layer, activation: gelu, dropout: 0.2}",
                        "head.init=default", *LEARN, "refine.who=elites", "algorithm.elites=4"],
    "ranges": [*LEARN, "refine.lr=[0.01, 0.1]", "refine.momentum=[0.5, 0.9]", "refine.nesterov=true",
               "refine.weight_decay=[0.001, 0.01]", "refine.label_smoothing=[0.01, 0.1]", "refine.back_off=true",
               "refine.optimizer_state=inherit", "refine.batches=own", "refine.schedule=linear"],
    "adam": [*DROPOUT, *LEARN, "refine.name=adam", "refine.optimizer_state=inherit", "refine.who=children",
             "refine.mixup=0.2", "refine.dropout=[0.1, 0.2]", "refine.schedule=cosine", "refine.class_weights=true"],
    "adamw": [*DROPOUT, *LEARN, "refine.name=adamw", "refine.inheritance=baldwinian", "refine.balanced=true",
              "refine.decay_to_start=0.01", "refine.share=0.5", "refine.logit_adjustment=1.0", "refine.dropout=0.1",
              "refine.label_smoothing=0.1", "refine.weight_decay=0.01", "refine.schedule=warmup_cosine"],
    "own batches": [*LEARN, "refine.batches=own", "refine.balanced=true", "refine.schedule=exponential"],
    "epoch": ["refine.steps=epoch", "refine.batch_size=60", "refine.schedule=step"],
    "epochs": ["refine.steps={epochs: 2}", "refine.batch_size=60", "refine.schedule=one_cycle"],
    "views": [*LEARN, *FLIP, "features.views=2"],
    "live views": [*LEARN, *FLIP, "features.views=live", "memory.graphs=true"],
    # Islands.
    "islands": ["islands={count: 3, every: 2}", "algorithm.crossover=uniform", "algorithm.population=6"],
    "islands, all to all, learning": [
        *LEARN, *DROPOUT, "refine.lr=[0.01, 0.1]", "refine.share=0.5", "refine.batches=own", "refine.dropout=0.1",
        "algorithm.population=6", "islands={count: 2, every: 1, topology: full, migrants: 2, settings: "
        "[{refine.dropout: 0.3, genome.init_sigma: 0.1}, {algorithm.mutation.sigma: 0.3}]}"],
    "islands, by a list, of a swarm": ["algorithm={name: pso, population: 6}", "fitness.precision=bfloat16",
                                       "islands={count: 3, every: 1, topology: [[1, 2], [], [0]]}"],
    "islands, of an ES": ["algorithm={name: snes, population: 6}", "islands={count: 2, migrants: 0}"],
    # More than the head.
    "a stage, one after another": [*DEEP, *LEARN, "memory.plan=loop", "backbone.batchnorm=recalibrate",
                                   "memory.graphs=true"],
    "a stage at once": [*DEEP, *LEARN, "memory.plan=vmap", "memory.graphs=true"],
    "a stage, safe": [*DEEP, "algorithm.mutation.safe=true", "algorithm.mutation.relative=false"],
    "a stage alone": [*DEEP, "head.trainable=false", "backbone.channels=1"],
    # Coordinates.
    "random directions": [*DEEP, "genome.space={name: random, directions: 6}"],
    "low rank": [*DEEP, "genome.space={name: low_rank, rank: 1}", *LEARN, "algorithm.elites=1"],
    "low rank, matrices alone": [*DEEP, "genome.space={name: low_rank, vectors: false}"],
    "scales": [*DEEP, "genome.space=scales", "algorithm={name: nes, sigma_rate: 0.1}"],
    "singular values, all": [*DEEP, "genome.space={name: singular, layers: [fc]}"],
    "scales without offsets": [*DEEP, "genome.space={name: scales, offsets: false, layers: [layer4]}"],
    "singular values": [*DEEP, "genome.space={name: singular, count: 2}"],
    "singular values alone": [*DEEP, "genome.space={name: singular, count: 2, vectors: false}"],
}  # fmt: skip


# Reads that a generation of a case waits for, where they are more than two: the history's statistics, and the line of
# the lineage where individuals have two parents at most, or who may learn where not all do. Nothing that is copied to
# the device waits.
WAITS = {
    "int8": 3, "constraints on objectives": 3,  # of many objectives: whether there are more fronts
    "xnes": 15, "xnes, its rate": 14,  # two exponentials of matrices; in float16 who went beyond its range
    **dict.fromkeys(("random directions", "singular values alone", "singular values, all"), 14),  # nes is xnes there
}  # fmt: skip
VALIDATION = {
    "int8": 4,
    "constraints on objectives": 4,
    "islands": 4, "islands, by a list, of a swarm": 4, "islands, of an ES": 3,  # each island's own candidates
}  # fmt: skip
# Beside those where candidates are validated: which are valid, and what they are worth.


class Marks(Quiet):
    """Notes after each generation how many waits there have been."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits
        self.reads: list[int] = []
        self.writes: list[int] = []

    def generation(self, step: Step) -> None:
        super().generation(step)
        self.reads.append(self.waits.reads.total())
        self.writes.append(self.waits.writes.total())


@pytest.fixture(params=GPUS)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    with GPUS[request.param]() as device:
        yield device
        monkeypatch.undo()  # or it would bring back what it found on paper


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 10)
    monkeypatch.setattr(intervals, "WHOLE_RESAMPLES", 4)
    torch.manual_seed(0)  # weights none: the library's own initialisation


def configured(*sets: str) -> Config:
    return load(None, [*BASE, *sets])


# A second and a half each: every fourth is of each suite, the others of --long.
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.long] if i % 4 else []) for i, case in enumerate(CASES)]
)
def test_a_run_is_begun_resumed_evaluated_and_exported(gpu: Gpu, tmp_path: Path, case: str) -> None:
    folder = tmp_path / "r"
    with gpu.count() as waits:
        quiet = Marks(waits)
        experiment.run(configured(*CASES[case]), str(folder), "test", quiet)
    assert quiet.reads[2] - quiet.reads[1] <= WAITS.get(case, 2), waits.reads.most_common()  # no validation
    assert quiet.reads[3] - quiet.reads[2] <= WAITS.get(case, 2) + VALIDATION.get(case, 2), waits.reads.most_common()
    assert quiet.writes[3] == quiet.writes[1], waits.writes.most_common()
    assert {x.device for step in quiet.steps for x in (step.population.genomes, step.scores.values)} == {CUDA}
    experiment.resume(str(folder), ["budget.generations=5"], quiet)
    assert [step.generation for step in quiet.steps] == [1, 2, 3, 4, 5]
    assert not [line for line in quiet.lines if "runs without" in line]  # graphs are captured
    result = rundir.read_result(folder)
    assert result["status"] == "finished"
    found = scores_of(str(folder), None, quiet)
    assert found == {
        **result["champion"]["test"],
        **{k: found[k] for k in found if k not in result["champion"]["test"]},
    }
    export.export(str(folder), None, str(tmp_path / "n.safetensors"))
    assert (tmp_path / "n.safetensors").stat().st_size


def enumerate_values(annotation: Any) -> set[str]:
    """Return what of an option's values are to be tried: each of a few, else what kind of value it may be."""
    if annotation is bool:
        return {"True", "False"}
    if annotation is None or annotation is type(None):
        return {"None"}
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return {str(value) for value in args}
    if origin is typing.Annotated:
        return enumerate_values(args[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(enumerate_values, args))
    return {"list"} if origin in (list, tuple) else {"number"} if annotation in (int, float) else set()


def kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "list"
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def options(c: Config) -> Iterator[tuple[str, str, set[str], str]]:
    """Yield a config's tables' rows and options: where, which, what is to be tried, and what this config has."""

    def of_part(part: Part) -> Iterator[tuple[str, str, set[str], str]]:
        for key, field in schema(part.kind, part.name, "")[1].model_fields.items():
            yield f"{part.kind} {part.name}", key, enumerate_values(field.annotation), kind(part.options[key])
        yield part.kind, "name", set(), part.name
        for value in part.options.values():
            if isinstance(value, Part):
                yield from of_part(value)

    def of_section(name: str, section: BaseModel) -> Iterator[tuple[str, str, set[str], str]]:
        for key in type(section).own_keys():  # type: ignore[attr-defined]
            yield name, key, enumerate_values(type(section).model_fields[key].annotation), kind(getattr(section, key))

    sections: list[BaseModel | None] = [c.backbone, c.head, c.features, c.genome, c.refine, c.fitness, c.memory]
    sections.append(c.islands)
    for section in filter(None, sections):
        yield from of_section(type(section).__name__.lower(), section)
    for bound in c.fitness.subject_to:
        yield from of_section("bound", bound)
    bounded = [bound.metric for bound in c.fitness.subject_to]
    parts = [
        c.head.layers,
        c.genome.space,
        c.algorithm,
        *c.fitness.metrics,
        c.fitness.ties,
        c.validate.metric,
        *bounded,
    ]
    for part in [*parts, None if c.refine is None else c.refine.optimizer]:
        if part is not None:
            yield from of_part(part)


ELSEWHERE = {
    ("backbone", "weights"), ("backbone", "transfer"), ("genome", "start"), ("head", "init"),  # test_gpu_files.py
    ("backbone", "mean"), ("backbone", "std"),  # there, of an ONNX file
    ("features", "whitening"), ("mutation gaussian", "relative"),  # None has become a value before a run begins
}  # fmt: skip


def test_each_row_of_the_tables_and_each_value_of_their_options_is_among_the_cases() -> None:
    wanted: dict[tuple[str, str], set[str]] = {}
    found: dict[tuple[str, str], set[str]] = {}
    for sets in CASES.values():
        for where, key, values, value in options(load(None, [*BASE[1:], *sets])):
            wanted.setdefault((where, key), set()).update(values)
            found.setdefault((where, key), set()).add(value)
    assert found["space", "name"] == {*TABLES["space"]} - {"merge"}  # test_gpu_files.py
    for table in ("head", "algorithm", "selection", "crossover", "mutation", "refine", "metric"):
        assert found[table, "name"] == {*TABLES[table]}
    lacking = {key: values - found[key] for key, values in wanted.items() if key not in ELSEWHERE}
    assert {key: values for key, values in lacking.items() if values} == {}


SPACE = {
    "refine.lr": {"name": "float", "low": 0.001, "high": 1, "scale": "log"},
    "refine.batch_size": {"name": "integer", "low": 16, "high": 64},
    "refine.nesterov": "boolean",
    "head.activation": {"name": "categorical", "choices": ["relu", "tanh"]},
    "head.hidden": {"name": "list", "low": 0, "high": 1, "item": {"name": "integer", "low": 4, "high": 8}},
}


@pytest.mark.parametrize("sampler", TABLES["sampler"])
def test_hyperparameters_are_searched(gpu: Gpu, tmp_path: Path, sampler: str) -> None:
    if sampler.startswith("optuna"):
        pytest.importorskip("optuna")
        if sampler.endswith("cmaes"):
            pytest.importorskip("cmaes")
    searched = {"sampler": {"name": sampler, "population": 2}, "space": SPACE, "budget": {"generations": 1},
                "trial": {"generations": 2, "rungs": [1]}}  # fmt: skip
    c = configured("algorithm={name: fixed, population: 1}", *MLP, *LEARN, f"tune={json.dumps(searched)}")
    assert {part.name for part in c.tune.variables.values()} == {*TABLES["variable"]}  # type: ignore[union-attr]
    tune.run(c, str(tmp_path / "t"), "test", Quiet(), Signals())
    assert rundir.read_result(tmp_path / "t")["status"] == "finished"


def test_a_run_on_the_device_is_that_on_the_cpu(tmp_path: Path) -> None:
    sets = [*LEARN, "features.components=null"]
    here, there = Quiet(), Quiet()
    experiment.run(configured(*sets, "device=cpu"), str(tmp_path / "cpu"), "test", here)
    with paper_gpu():
        experiment.run(configured(*sets), str(tmp_path / "cuda"), "test", there)
    for a, b in zip(here.steps, there.steps, strict=True):
        assert isinstance(b.population.genomes, Paper)
        assert torch.allclose(a.population.genomes, b.population.genomes.elem, atol=1e-5)


@pytest.mark.parametrize(("capability", "half"), [((7, 5), "float16"), ((9, 0), "bfloat16")])
def test_auto_is_what_a_gpu_computes_in(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], half: str
) -> None:
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path / "cache"))
    if type(gpu) is Gpu:  # on paper: of a real one Triton's compiler asks for it, too
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    elif torch.cuda.get_device_capability() < (8, 0):
        half = "float16"
    else:
        half = "bfloat16"
    monkeypatch.setattr(precision, "LEAST", 0.0)
    monkeypatch.setattr(precision, "CLEARLY", 0.0)
    experiment.run(configured(), str(tmp_path / "r"), "test", Quiet())
    assert rundir.read_result(tmp_path / "r")["precision"] == half


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("sets", [[], LEARN, [*FLIP, "features.views=2"]], ids=["scored", "learning", "views"])
def test_features_that_do_not_fit_the_device_give_the_run_that_those_on_it_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: str, sets: list[str]
) -> None:
    sets = [*sets, "features.components=null", "memory.limit=2e5", "algorithm.population=4"]  # slices of 128 samples
    runs, memory = [], {"cuda": 100_000, "cpu": 2**30}  # half of it is more than the population takes, not features
    for name in ("there", "here"):
        runs.append(Quiet())
        with GPUS[gpu]():
            if name == "here":
                monkeypatch.setattr(devices, "available_memory", lambda device: memory[device.type])
            experiment.run(configured(*sets, "fitness.samples=140"), str(tmp_path / name), "test", runs[-1])
            assert bool(staging.copy_stream.cache_info().currsize) is (name == "here")
    for a, b in zip(*(run.steps for run in runs), strict=True):
        assert a.population.genomes.device == b.population.genomes.device == CUDA
        assert torch.equal(a.population.genomes.cpu(), b.population.genomes.cpu())


GRAPHS = {
    "default": [],
    "an mlp in half precision": [*MLP, "fitness.precision=bfloat16", "algorithm.elites=2"],
    "two objectives": ["fitness.metrics=[cross_entropy, accuracy]"],
    "levels": ["genome.levels=int8", "algorithm.mutation=levels", "fitness.metric=accuracy"],
    "learning": LEARN,
}


@pytest.mark.parametrize("case", GRAPHS)
def test_scoring_by_graphs_gives_the_run_that_it_gives_without(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    graphs: list[Any] = []

    class Kept(torch.cuda.CUDAGraph):  # of the device on paper, where that is the one
        def __init__(self) -> None:
            super().__init__()
            self.launches = 0
            graphs.append(self)

        def replay(self) -> None:
            super().replay()
            self.launches += 1

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Kept)
    # Slices of 3 and 2 individuals, of 128 and 12 samples: four shapes, each captured once.
    sets = [*GRAPHS[case], "features.components=null", "memory.limit=1.8e5", "fitness.samples=140"]
    runs = [Quiet(), Quiet()]
    for run, value in zip(runs, ("false", "true"), strict=True):
        experiment.run(configured(*sets, f"memory.graphs={value}"), str(tmp_path / value), "test", run)
        if value == "false":
            assert not graphs
    assert not [note for note in runs[1].lines if "CUDA graphs" in note]
    assert len(graphs) >= 2
    assert all(graph.launches for graph in graphs)
    for a, b in zip(*(run.steps for run in runs), strict=True):
        assert torch.equal(a.population.genomes.cpu(), b.population.genomes.cpu())
        assert torch.allclose(
            a.scores.values.cpu(), b.scores.values.cpu(), rtol=1e-6
        )  # products round by where rows lie


def test_what_a_run_asks_of_graphs_and_goes_without_is_said(gpu: Gpu, tmp_path: Path) -> None:
    notes = {
        "device=cpu": "CUDA graphs: need a GPU; runs without",
        "fitness.metric=auroc": "CUDA graphs: a metric of fitness needs all logits at once; runs without",
    }
    for name, note in notes.items():
        quiet = Quiet()
        experiment.run(configured("memory.graphs=true", name), str(tmp_path / name[:4]), "test", quiet)
        assert quiet.lines.count(note) == 1


def test_scoring_goes_over_logits_once_and_says_so_where_it_can_not(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from neuroevo.problems import kernels

    calls, sums, quiet = [], kernels.sums, Quiet()
    monkeypatch.setattr(kernels, "sums", lambda logits, targets: calls.append(logits.shape) or sums(logits, targets))
    experiment.run(configured("fitness.metric=accuracy"), str(tmp_path / "a"), "test", quiet)
    assert (8, 60, 10) in calls, quiet.lines
    monkeypatch.setattr(kernels, "wrong", lambda device: "its sums are others")
    slicing.one_pass_lacks.cache_clear()
    before, quiet = len(calls), Quiet()
    experiment.run(configured("fitness.metric=accuracy"), str(tmp_path / "b"), "test", quiet)
    slicing.one_pass_lacks.cache_clear()
    assert len(calls) == before
    why = "a kernel for one pass fails here (its sums are others)"
    assert quiet.lines.count(f"scoring: metrics go over logits several times, for {why}") == 1


def samples() -> tuple[Tensor, Tensor]:
    labels = torch.arange(3).repeat(20)
    return torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) + labels[:, None], labels


@pytest.mark.parametrize("trainable", [(), ("0.weight", "2.*")])
@pytest.mark.parametrize("refine", [None, neuroevo.sgd(steps=2)])
def test_a_classifier_is_evolved_from_python(gpu: Gpu, trainable: tuple[str, ...], refine: Any) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    found = neuroevo.evolve(
        model, samples(), trainable=trainable, refine=refine, device="cuda", algorithm=neuroevo.ga(population=8),
        budget=Budget(generations=3), samples=20,
    )  # fmt: skip
    assert found.population.genomes.device == CUDA
    assert found.model is not None
    assert found.model(samples()[0].to(next(found.model.parameters()).device)).shape == (60, 3)


def test_a_function_of_a_module_is_evolved(gpu: Gpu) -> None:
    x = torch.ones(4, 5, device="cuda")
    found = neuroevo.evolve(
        nn.Linear(5, 1), fitness=lambda module: -module(x).square().mean(), device="cuda",
        algorithm=neuroevo.ga(population=8), budget=Budget(generations=3),
    )  # fmt: skip
    assert found.population.genomes.device == CUDA
    assert len(found.history) == 3


def test_a_function_of_genomes_is_evolved(gpu: Gpu) -> None:
    found = neuroevo.evolve(
        fitness=lambda genomes: -genomes.square().sum(1), start=torch.ones(5), device="cuda",
        algorithm=neuroevo.snes(population=8), budget=Budget(generations=3),
    )  # fmt: skip
    assert found.population.genomes.device == CUDA


HYBRID = ["refine.steps=2", "refine.batch_size=30", "algorithm.elites=0", "algorithm.crossover=uniform",
          "algorithm.mutation.self_adaptive=true"]  # fmt: skip


def test_children_of_parents_drawn_twice_are_the_same_each_time(gpu: Gpu) -> None:
    source = torch.Generator().manual_seed(0)
    genomes, drawn = torch.randn(40, 30, generator=source), torch.randint(40, (60, 20), generator=source)
    layout = Layout(("w",), ((30,),))
    expected = crossover.weighted(genomes, drawn, layout, source)
    made = [crossover.weighted(genomes.to(CUDA), drawn.to(CUDA), layout, source) for _ in range(20)]
    assert all(torch.equal(each, made[0]) for each in made)
    torch.testing.assert_close(made[0].cpu(), expected)


@pytest.mark.parametrize(("sets", "most"), [([], 1), (HYBRID, 2)], ids=["default", "hybrid"])
def test_a_generation_waits_for_the_device_once_and_with_parents_in_the_lineage_twice(
    gpu: Gpu, tmp_path: Path, sets: list[str], most: int
) -> None:
    with gpu.count() as waits:
        marks = Marks(waits)
        more = ["budget.generations=8", "validate.every=8", "checkpoint.every=8"]
        experiment.run(configured(*sets, *more), str(tmp_path / "r"), "test", marks)
    reads = [after - before for before, after in zip(marks.reads[:6], marks.reads[1:7], strict=True)]
    assert reads == [most] * 6, waits.reads.most_common()  # the issue: two, and four with gradient steps
    assert marks.reads[7] - marks.reads[6] == most + 2  # which of the best are valid, and what candidates are worth
    assert marks.writes[6] == marks.writes[1], waits.writes.most_common()


def test_features_that_fit_are_on_the_device_from_the_start(gpu: Gpu, tmp_path: Path) -> None:
    seen: list[torch.device] = []
    batch = Features.batch

    def look(self: Features, index: Tensor) -> tuple[Tensor, Tensor]:
        seen.extend(piece.device for piece in (*self.pieces, self.labels))
        return batch(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Features, "batch", look)
        experiment.run(configured(*FLIP, "features.views=1"), str(tmp_path / "r"), "test", Quiet())
        neuroevo.evolve(nn.Linear(5, 3), samples(), device="cuda", budget=Budget(generations=1))
    assert {*seen} == {CUDA}
