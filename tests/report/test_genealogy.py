from pathlib import Path

import pytest
import torch
from conftest import TINY, Quiet

from neuroevo.config import load
from neuroevo.engine import pareto
from neuroevo.experiments import experiment
from neuroevo.report import genealogy, runpage
from neuroevo.storage import lineage as lineages
from neuroevo.storage.lineage import Generation

LINEAGE = {
    1: Generation([[-1, -1], [-1, -1], [-1, -1]], [0.1, 0.3, None]),
    2: Generation([[1, -1], [0, 1], [1, 1]], [0.2, 0.6, 0.5]),
    3: Generation([[1, -1], [2, 0], [0, 1]], [0.4, 0.9, 0.7]),
}


def test_ancestors_are_followed_back_to_the_first_generation_each_once() -> None:
    found = genealogy.ancestors(LINEAGE, 3, [1, 2], 8, 8)
    assert [[(a.generation, a.row) for a in generation] for generation in found] == [
        [(3, 1), (3, 2)], [(2, 2), (2, 0), (2, 1)], [(1, 1), (1, 0)],
    ]  # fmt: skip
    assert [a.parents for a in found[1]] == [(1,), (1,), (0, 1)]
    assert [a.fitness for a in found[2]] == [0.3, 0.1]


def test_a_genealogy_ends_at_its_depth_before_it_is_too_wide_and_where_the_lineage_does() -> None:
    assert len(genealogy.ancestors(LINEAGE, 3, [1], 2, 8)) == 2
    assert len(genealogy.ancestors(LINEAGE, 3, [1, 2], 8, 2)) == 1
    assert len(genealogy.ancestors({3: LINEAGE[3]}, 3, [1], 8, 8)) == 1


def test_of_two_parents_the_fitter_one_leads_on() -> None:
    line = lineages.descent(LINEAGE, 3, 1)
    assert [(a.generation, a.row, a.fitness) for a in line] == [(3, 1, 0.9), (2, 2, 0.5), (1, 1, 0.3)]


def test_an_individual_that_only_learns_descends_from_itself_and_a_mean_of_all_is_said_to_be_one(
    tmp_path: Path,
) -> None:
    alone = ["algorithm.name=fixed", "refine.steps=2", "refine.lr=0.01"]
    for name, sets, kind, line in (
        ("sgd", alone, "individual 2", None),
        ("snes", ["algorithm.name=snes"], "center", "was made of the whole population: the middle of the search"),
    ):
        folder = experiment.run(
            load(None, [*TINY, *sets, "algorithm.population=8"]), str(tmp_path / name), "x", Quiet()
        )
        run = runpage.read(folder)
        champion = run.champion | {"kind": kind.replace(" ", "_")}
        shown = "".join(runpage.ancestry(run._replace(result=run.result | {"champion": champion}), None))
        if line is None:
            assert "Line of descent" in shown
            assert "whole population" not in shown
        else:
            assert line in shown or "have no parents" in shown


def test_a_champion_is_of_the_best_row_of_the_best_rows_or_of_the_front() -> None:
    algorithm = {"algorithm": {"population": 8, "elites": 1}}
    generation = Generation([[-1, -1]] * 8, [0.1, 0.5, None, 0.4, 0.3, 0.2, 0.0, 0.45])
    assert genealogy.origin(generation, "best", algorithm) == [1]
    assert genealogy.origin(generation, "elite_mean", algorithm) == [1, 7]
    assert genealogy.origin(generation, "elite_mean", {"algorithm": {"population": 8, "elites": 3}}) == [1, 7, 3]
    assert genealogy.origin(generation, "personal_mean", algorithm) == []
    tied = Generation([[-1, -1]] * 3, [[0.5, 0.1], [0.5, 0.2], [0.4, 0.9]])
    assert genealogy.origin(tied, "best", algorithm) == [1]
    values = torch.tensor(tied.fitness, dtype=torch.float64)
    assert [genealogy.origin(tied, f"front-{i}", algorithm) for i in range(2)] == [[i] for i in pareto.front(values)]


def test_the_rows_of_a_real_runs_champion_are_its_genome(tmp_path: Path) -> None:
    runs = {"plain": [], "elites": ["algorithm.elites=3", "seed=1"], "ties": ["fitness.ties=accuracy", "seed=2"]}
    for name, sets in runs.items():
        kept = Quiet()
        c = load(None, [*TINY, "algorithm.crossover=uniform", *sets])
        folder = experiment.run(c, str(tmp_path / name), "test", kept)
        champion = kept.steps[-1].champion
        population = kept.steps[champion.generation - 1].population
        rows = genealogy.origin(lineages.read(folder)[champion.generation], champion.kind, c.record())
        torch.testing.assert_close(champion.genome, population.genomes[rows].mean(0))


@pytest.mark.parametrize("kind", ["individual_x", "individual_99999", "individual_-1", "individual_" + "9" * 5000,
                                  "individual_2 of island 1", "individual_0 of island 7", "front-0",
                                  "front-x"])  # fmt: skip
def test_a_champion_that_nobody_can_be_has_no_rows(kind: str) -> None:
    assert genealogy.origin(Generation([[-1]] * 3, [0.1, 0.5, None], [0, 0, 1]), kind, {}) == []


@pytest.mark.parametrize("given", [{}, {"population": "x"}, {"population": 8, "elites": "x"}, {"population": -3}])
def test_a_mean_of_nobody_knows_how_many_has_no_rows(given: dict[str, object]) -> None:
    assert genealogy.origin(LINEAGE[1], "elite_mean", {"algorithm": given}) == []


@pytest.mark.parametrize("kind", ["front-2", "front-99999", "front--1", "front-" + "9" * 5000])
def test_a_member_that_a_front_does_not_have_has_no_rows(kind: str) -> None:
    assert genealogy.origin(Generation([[-1]] * 2, [[0.5, 0.1], [0.4, 0.9]]), kind, {}) == []
