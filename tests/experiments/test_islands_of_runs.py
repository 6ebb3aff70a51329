"""Runs of islands: without migrants each is a run of its own, byte for byte, and all of it is written down."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Quiet, scores_of, weights_of_a_network
from test_resume import contents

from neuroevo import config
from neuroevo.cli import inspection
from neuroevo.config.islands import configs
from neuroevo.engine import loop
from neuroevo.engine.algorithm import Algorithm
from neuroevo.engine.evaluator import Evaluated
from neuroevo.engine.genome import Population
from neuroevo.engine.loop import Step
from neuroevo.engine.problem import Problem
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError
from neuroevo.experiments import compose, costs, experiment, export
from neuroevo.experiments.compose import Run
from neuroevo.report import genealogy, runpage
from neuroevo.search import islands
from neuroevo.storage import generations, rundir
from neuroevo.storage import lineage as lineages

# Digits' own pixels: quick, and nothing to download.
SETS = [
    "backbone={name: none, weights: none}", "data={name: digits, image_size: null, limit: 300}",
    "algorithm.population=6", "budget.generations=4", "fitness.samples=60", "validate.every=2", "memory.limit=1e8",
    "features.components=null", "fitness.precision=float32",
]  # fmt: skip
THREE = "islands={count: 3, migrants: 0}"
LEARN = ["refine.steps=3", "refine.batch_size=30"]
MLP = ["head={name: mlp, hidden: [8], dropout: 0.2}", "head.init=default"]
DEEP = [
    "backbone={name: timm/test_resnet, trainable: [layer4]}", "data={name: digits, image_size: 32, limit: 120}",
    "algorithm.population=4", "fitness.samples=20", "head.init=default", "memory.limit=1e9", "memory.plan=loop",
]  # fmt: skip


def build(*sets: str) -> Run:
    ready = experiment.prepare(config.load(None, [*SETS, *sets]))
    return compose.compose(*ready, images=lambda done, total: None, log=lambda line: None)


def alone(run: Run, island: int) -> list[Step]:
    """Return the steps of a run by itself, as that island draws."""

    def there(context: Context) -> Context:
        return context._replace(island=island)

    given, problem = run.algorithm, run.problem()
    algorithm: Algorithm[Any] = given._replace(
        init=lambda start, sigma, context: given.init(start, sigma, there(context)),
        ask=lambda state, context: given.ask(state, there(context)),
    )
    inner = problem.evaluator

    def evaluate(population: Population, index: torch.Tensor, context: Context) -> Evaluated:
        return inner.evaluate(population, index, there(context))

    return steps(run, problem._replace(evaluator=inner._replace(evaluate=evaluate)), algorithm)


def steps(run: Run, problem: Problem, algorithm: Algorithm[Any]) -> list[Step]:
    begun = loop.begin(problem, algorithm, run.config.seed, run.home)
    return list(loop.evolve(problem, algorithm, run.rules(), begun, device=run.home, clock=lambda: 0.0))


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["algorithm.crossover=uniform", *LEARN, *MLP],
        [*LEARN, *MLP, "refine.batches=own", "refine.mixup=0.2", "refine.share=0.5", "refine.back_off=true"],
        [*LEARN, "refine.lr=[0.01, 0.1]", "refine.momentum=[0.5, 0.9]", "refine.optimizer_state=inherit"],
        [*LEARN, "refine.lr=[0.01, 0.1, 0.3, 0.5]", "refine.who=children", "algorithm.elites=2"],
        [*LEARN, "refine.inheritance=baldwinian", "refine.batches=own", "refine.balanced=true"],
        [*MLP[1:], "head={name: mlp, hidden: [8]}", "algorithm.mutation.safe=true", "fitness.ties=accuracy"],
        ["algorithm.population=37", "features.components=null", "fitness.samples=131"],
        ["fitness.metrics=[cross_entropy, accuracy]"],
        ["fitness.subject_to=[{metric: precision, per: class, at_least: 0.5}]"],
        ["algorithm={name: snes, population: 6}", "fitness.precision=bfloat16"],
        ["fitness.precision=bfloat16", "algorithm.elites=2"],
        ["algorithm={name: pso, population: 6}", *LEARN],
        ["algorithm={name: de, population: 6}"],
        ["genome.levels=int8"],
        DEEP,
    ],
    ids=str,
)
def test_without_migrants_each_island_is_a_run_of_its_own_byte_for_byte(tmp_path: Path, sets: list[str]) -> None:
    if sets is DEEP:  # without weights each network is another
        sets = [*sets, weights_of_a_network(tmp_path)]
    run, single = build(*sets, THREE), build(*sets)
    together = steps(run, run.problem(), run.algorithm)
    for i in range(3):
        for whole, own in zip(together, alone(single, i), strict=True):
            n = len(own.population.genomes)
            rows = slice(i * n, (i + 1) * n)
            assert torch.equal(whole.population.genomes[rows], own.population.genomes)
            assert torch.equal(whole.scores.values[rows], own.scores.values)
            for name, trait in own.population.traits.items():
                assert torch.equal(whole.population.traits[name][rows], trait)
            assert whole.cost.samples == 3 * own.cost.samples
    plain = steps(single, single.problem(), single.algorithm)
    n = len(plain[-1].population.genomes)
    assert torch.equal(together[-1].population.genomes[:n], plain[-1].population.genomes)


def test_no_slice_has_individuals_of_several_islands() -> None:
    """Products of other numbers of individuals could round otherwise."""
    sizes: list[int] = []

    class Counted:
        def map(self, work: Any, slices: Any) -> Any:
            for part in slices:
                sizes.append(len(part[0] if isinstance(part, tuple) else part))
                yield work(part)

    run = build(THREE, *LEARN, "memory.limit=3e5", "fitness.samples=140")
    run = replace(run, supervised=replace(run.supervised, executor=Counted()))
    begun = loop.begin(run.problem(), run.algorithm, 0, run.home)
    sizes.clear()
    next(loop.evolve(run.problem(), run.algorithm, run.rules(), begun, device=run.home))
    trained, scored = run.supervised.executions.now.trained, run.supervised.executions.now.individuals
    assert (trained, scored) == (4, 5)  # neither of which divides 6
    assert sizes == [len(size) for most in (trained, scored) for _ in range(3) for size in torch.arange(6).split(most)]


class Killed(Quiet):
    """Ends a run in the middle of it, as if it were killed."""

    def generation(self, step: Step) -> None:
        super().generation(step)
        if len(self.steps) == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "sets",
    [
        ["islands={count: 3, every: 2}", "algorithm.crossover=uniform"],
        ["islands={count: 3, every: 3}", *LEARN, *MLP, "refine.optimizer_state=inherit", "refine.batches=own"],
        ["islands={count: 3, migrants: 0}", "algorithm={name: snes, population: 6}"],
        ["islands={count: 3, every: 2, topology: full}", "algorithm={name: pso, population: 6}"],
        ["islands={count: 2, every: 2}", "fitness.metrics=[cross_entropy, accuracy]", "algorithm.elites=3"],
        ["islands={count: 3, every: 2, settings: [{}, {algorithm.crossover: uniform}, {algorithm.parents: 4}]}"],
        ["islands={count: 3, every: 2, settings: [{refine.lr: 0.1}, {}, {refine.lr: 0.5, genome.init_sigma: 0.1}]}",
         *LEARN],
    ],
    ids=str,
)  # fmt: skip
def test_a_killed_run_of_islands_goes_on_to_the_same_bytes(tmp_path: Path, sets: list[str]) -> None:
    c = config.load(None, [*SETS, *sets, "budget.generations=9", "checkpoint.every=2"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    experiment.run(c, str(whole), "test", Quiet())
    with pytest.raises(KeyboardInterrupt):
        experiment.run(c, str(killed), "test", Killed())
    generations.paths(killed / rundir.CHECKPOINTS)[0].unlink()  # which kill -9 would not have left
    assert len(rundir.read_islands(killed)) == 5 * c.islands.count  # type: ignore[union-attr]
    quiet = Quiet()
    experiment.resume(str(killed), [], quiet)
    assert [step.generation for step in quiet.steps] == [5, 6, 7, 8, 9]
    assert contents(killed) == contents(whole)
    assert (killed / rundir.ISLANDS).read_bytes() == (whole / rundir.ISLANDS).read_bytes()


def test_all_of_a_run_of_islands_is_written_down_and_can_be_used(tmp_path: Path) -> None:
    folder, quiet = tmp_path / "r", Quiet()
    settings = "settings: [{}, {algorithm.mutation.sigma: 0.3}, {algorithm.elites: 2}]"
    c = config.load(None, [*SETS, "algorithm.crossover=uniform", f"islands={{count: 3, every: 2, {settings}}}"])
    experiment.run(c, str(folder), "test", quiet)
    lines = rundir.read_islands(folder)
    assert [(line["generation"], line["island"]) for line in lines] == [(g, i) for g in range(1, 5) for i in range(3)]
    for line in lines:
        step, rows = quiet.steps[line["generation"] - 1], slice(6 * line["island"], 6 * line["island"] + 6)
        assert line["fitness_best"] == pytest.approx(float(step.scores.values[rows].max()))
        assert line["fitness_mean"] == pytest.approx(float(step.scores.values[rows].mean()))
    for line in rundir.read_history(folder):
        own = [each["fitness_best"] for each in lines if each["generation"] == line["generation"]]
        assert line["fitness_best"] == max(own)
    lineage = lineages.read(folder)
    assert all(line.island == [i // 6 for i in range(18)] for line in lineage.values())
    result = rundir.read_result(folder)
    kind, island = islands.split(result["champion"]["kind"])
    assert kind in ("best", "elite_mean") and island in (0, 1, 2)
    rows = genealogy.origin(lineage[result["champion"]["generation"]], result["champion"]["kind"], c.record())
    there = quiet.steps[result["champion"]["generation"] - 1].population.genomes[rows].mean(0)
    assert {row // 6 for row in rows} == {island}
    torch.testing.assert_close(there, quiet.steps[-1].champion.genome)
    # A migrant's parent is itself, on the island that it came from: somebody of the third generation is of another.
    assert any(p // 6 != i // 6 for i, ps in enumerate(lineage[3].parents) for p in ps if p >= 0)
    assert not any(p // 6 != i // 6 for i, ps in enumerate(lineage[2].parents) for p in ps if p >= 0)
    assert quiet.steps[-1].cost.forward == 4 * 18 * 60
    found = scores_of(str(folder), None, quiet)
    assert found["accuracy"] == result["champion"]["test"]["accuracy"]
    export.export(str(folder), None, str(tmp_path / "n.safetensors"))
    assert (tmp_path / "n.safetensors").stat().st_size
    shown = dict(inspection.describe(str(folder))[1])
    assert shown["population"].endswith("on 3 islands")
    assert f"of island {island} of generation" in shown["champion"]
    page = runpage.run_page(folder, None)
    assert "Fitness of islands" in page and "algorithm.mutation.sigma 0.3" in page
    again = config.check(config.read(str(folder / rundir.CONFIG)))
    assert again.record() == c.record() | {"memory": again.record()["memory"]}
    after = config.load(None, [*SETS, f"genome.from=[{folder}]"])
    experiment.run(after, str(tmp_path / "after"), "test", Quiet())


def test_damaged_lines_of_islands_are_left_out_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    experiment.run(config.load(None, [*SETS, THREE]), str(folder), "test", Quiet())
    file = folder / rundir.ISLANDS
    first, second, *rest = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first.replace('"island": 0', '"island": "x"'), second[:9] + "\n", *rest]))
    told: list[str] = []
    assert len(rundir.read_islands(folder, told.append)) == 10
    assert told == [f"{file}: 2 of 12 lines are damaged, and left out"]
    runpage.run_page(folder, None)


def test_what_an_island_has_of_its_own_is_what_a_run_with_it_has() -> None:
    settings = [{"refine.lr": 0.5, "algorithm.mutation.sigma": 0.2}, {"genome.init_sigma": 0.3}, {}]
    given = json.dumps({"count": 3, "migrants": 0, "settings": settings})
    sets = [*LEARN, "algorithm.crossover=uniform"]
    run = build(*sets, f"islands={given}")
    together = steps(run, run.problem(), run.algorithm)
    for i, own in enumerate(settings):
        single = build(*sets, *(f"{key}={value}" for key, value in own.items()))
        for whole, step in zip(together, alone(single, i), strict=True):
            assert torch.equal(whole.population.genomes[6 * i : 6 * i + 6], step.population.genomes)


def test_a_config_that_is_read_back_has_the_same_islands() -> None:
    """What a setting makes of other defaults is written down as well."""
    settings = "settings: [{algorithm.crossover: uniform}, {refine.lr: 0.5, algorithm.elites: 2}, {refine.lr: 0.01}]"
    c = config.load(None, [*SETS, *LEARN, f"islands={{count: 3, {settings}}}"])
    again = config.check(config.parse(c.to_yaml(), "config.yaml"))
    assert c.islands is not None and again.islands is not None
    assert c.islands.settings[0]["algorithm.selection"]["name"] == "tournament"
    for one, other in zip(configs(c, c.islands), configs(again, again.islands), strict=True):
        assert one.record() == other.record()
    assert again.record() == c.record()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("{}", "islands.count: field required"),
        ("{count: 1}", "islands.count: 1 given; input should be greater than or equal to 2"),
        ("{count: 2, topology: star}", "islands.topology: "),
        ("{count: 2, topology: [[1]]}", "islands.topology: 1 lists given for 2 islands"),
        ("{count: 2, topology: [[1], [1]]}", "islands.topology.1: [1] given; other islands from 0 to 1"),
        ("{count: 2, topology: [[], []]}", "islands.topology: nobody receives"),
        ("{count: 2, migrants: 6}", "islands.migrants: 6 of the 6 individuals of an island would be replaced"),
        ("{count: 2, migrants: 0, every: 3}", "islands.every: 3 has no effect: nobody goes"),
        ("{count: 2, settings: [{}]}", "islands.settings: 1 given for 2 islands"),
        ("{count: 2, settings: [{}, {seed: 1}]}", "islands.settings.1.seed: not an island's own"),
        ("{count: 2, settings: [{}, {refine.lr: 1}]}", "islands.settings.1.refine.lr: there are no gradient steps"),
        ("{count: 2, settings: [{}, {algorithm.population: 8}]}", "islands.settings.1.algorithm.population: islands"),
        ("{count: 2, settings: [{}, {algorithm.mutation.sigm: 8}]}", "islands.settings.1.algorithm.mutation.sigm: unk"),
        ("{count: 2, settings: [{}, {algorithm.mutation.tau: 0.3}]}",
         "islands.settings.1.algorithm.mutation.tau: 0.3 has no effect"),
        ("{count: 2, sett: 1}", "islands.sett: unknown key (did you mean settings?)"),
    ],
)  # fmt: skip
def test_islands_that_cannot_be_are_refused_in_a_line(given: str, line: str) -> None:
    with pytest.raises(InputError) as refused:
        config.load(None, [*SETS, f"islands={given}"])
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_a_search_that_keeps_no_population_and_a_search_of_hyperparameters_are_refused_in_a_line() -> None:
    with pytest.raises(InputError, match="islands.migrants: 1, but this algorithm keeps no population"):
        config.load(None, [*SETS, "algorithm={name: snes, population: 6}", "islands.count=2"])
    space = "tune={space: {algorithm.mutation.sigma: {name: float, low: 0.1, high: 1}}}"
    with pytest.raises(InputError, match="islands: a trial of a search is one population"):
        config.load(None, [*SETS, "islands.count=2", space])


def test_what_a_run_of_islands_takes_is_foretold() -> None:
    c = config.load(None, [*SETS, *LEARN, "refine.share=0.3", THREE])
    run = build(*LEARN, "refine.share=0.3", THREE)
    counts = {name: len(rows) for name, rows in run.supervised.splits.items()}
    first, second, *_ = steps(run, run.problem(), run.algorithm)
    spent = second.cost - first.cost
    told = costs.generation(c, counts)
    assert (spent.forward, spent.backward) == (told.forward, told.backward)
