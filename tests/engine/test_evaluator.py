from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from neuroevo.engine import evaluator
from neuroevo.engine.cost import Cost
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.scores import Scores
from neuroevo.search.algorithms.ga import ga
from neuroevo.search.operators.crossover import uniform

CPU = torch.device("cpu")
ROWS = torch.arange(10)


def score(population: Population, index: Tensor) -> tuple[Scores, Cost]:
    """A genome is worth its first gene."""
    values = population.genomes[:, :1].double()
    invalid = values[:, 0].isnan()
    values = values.masked_fill(invalid[:, None], -torch.inf)
    return Scores(values, invalid), Cost(forward=len(values) * len(index))


scoring = evaluator.Scoring(score, lambda n, samples: Cost(forward=n * samples))


def refine(population: Population, context: Context) -> tuple[Population, Cost]:
    """Even individuals learn something good, odd ones unlearn."""
    sign = torch.where(torch.arange(len(population.genomes)) % 2 == 0, 1.0, -1.0)
    traits = {"lr": torch.ones(len(sign)), "velocity": torch.full((len(sign), 2), 7.0)}
    learnt = population._replace(genomes=population.genomes + sign[:, None], traits=traits)
    return learnt, Cost(forward=5, backward=5)


def learning(population: Population, steps: int) -> Cost:
    return Cost(forward=5, backward=5)


def people() -> Population:
    traits = {"velocity": torch.zeros(4, 2)}
    return Population.new(torch.arange(8.0).view(4, 2), parents=2)._replace(traits=traits)


def developed(d: evaluator.Evaluator) -> evaluator.Evaluated:
    return d.evaluate(people(), ROWS, Context(0, 1, 0.0, CPU))


def test_a_plain_evaluator_scores_a_population_as_it_is() -> None:
    d = evaluator.plain(scoring)
    found = developed(d)
    assert found.scored is found.inherited
    assert torch.equal(found.scored.genomes, people().genomes)
    assert found.cost == d.cost(people(), len(ROWS), 0) == Cost(forward=40)


def test_lamarckian_individuals_inherit_what_they_learnt() -> None:
    found = developed(evaluator.lamarckian(scoring, evaluator.Learning(refine, learning)))
    assert found.scored is found.inherited
    assert found.inherited.genomes[:, 0].tolist() == [1, 1, 5, 5]
    assert found.scores.values[:, 0].tolist() == [1, 1, 5, 5]
    assert found.cost == Cost(forward=45, backward=5)


def test_baldwinian_individuals_inherit_their_own_genome_and_are_scored_by_what_they_learnt() -> None:
    found = developed(evaluator.baldwinian(evaluator.lamarckian(scoring, evaluator.Learning(refine, learning))))
    assert torch.equal(found.inherited.genomes, people().genomes)
    assert found.scores.values[:, 0].tolist() == [1, 1, 5, 5]
    assert found.scored.genomes[:, 0].tolist() == [1, 1, 5, 5]
    assert found.inherited.traits["lr"].tolist() == [1] * 4


def test_backed_off_individuals_that_got_worse_are_put_back_with_all_they_had() -> None:
    d = evaluator.back_off(scoring, evaluator.Learning(refine, learning))
    found = developed(d)
    assert found.inherited.genomes[:, 0].tolist() == [1, 2, 5, 6]
    assert found.scores.values[:, 0].tolist() == [1, 2, 5, 6]
    assert found.inherited.traits["velocity"][:, 0].tolist() == [7, 0, 7, 0]
    assert found.inherited.traits["lr"].tolist() == [1] * 4
    assert found.cost == d.cost(people(), len(ROWS), 0) == Cost(forward=85, backward=5)


def test_an_individual_that_learning_made_invalid_is_put_back() -> None:
    def spoil(population: Population, context: Context) -> tuple[Population, Cost]:
        return population._replace(genomes=population.genomes * torch.nan), Cost()

    found = developed(evaluator.back_off(scoring, evaluator.Learning(spoil, learning)))
    assert torch.equal(found.inherited.genomes, people().genomes)
    assert not found.scores.invalid.any()


class Best(NamedTuple):
    values: list[float]

    @property
    def falls(self) -> bool:
        return any(b < a - 1e-12 for a, b in zip(self.values, self.values[1:], strict=False))


def best_of_each_generation(d: evaluator.Evaluator) -> Best:
    layout = Layout(("w",), ((2,),))
    algorithm = ga(population=8, elites=2, crossover=uniform)
    state = algorithm.init(torch.zeros(1, 2), 0.5, Context(0, 0, 0.0, CPU, layout))
    best = []
    for generation in range(1, 25):
        context = Context(0, generation, 0.0, CPU, layout)
        grown = d.evaluate(algorithm.ask(state, context), ROWS, context)
        state = algorithm.tell(state, grown.inherited, grown.scores)
        best.append(float(grown.scores.values.max()))
    return Best(best)


def harmful(population: Population, context: Context) -> tuple[Population, Cost]:
    g = context.generator("test")
    noise = torch.randn(population.genomes.shape, generator=g)
    return population._replace(genomes=population.genomes + noise - 0.5), Cost()


def test_with_back_off_the_best_on_a_fixed_batch_never_falls_and_without_it_does() -> None:
    assert not best_of_each_generation(evaluator.back_off(scoring, evaluator.Learning(harmful, learning))).falls
    assert best_of_each_generation(evaluator.lamarckian(scoring, evaluator.Learning(harmful, learning))).falls


def test_with_many_objectives_back_off_puts_back_what_is_dominated_by_what_it_was() -> None:
    before = torch.tensor([[1.0, 1], [1, 1], [1, 1], [1, 1]]).double()
    after = torch.tensor([[0.0, 1], [2, 0], [0, 5], [-torch.inf, -torch.inf]]).double()

    def both(population: Population, index: Tensor) -> tuple[Scores, Cost]:
        values = before if torch.equal(population.genomes, people().genomes) else after
        return Scores(values, values[:, 0].isinf(), 2), Cost()

    found = developed(
        evaluator.back_off(evaluator.Scoring(both, lambda n, samples: Cost()), evaluator.Learning(refine, learning))
    )
    kept = (found.scored.genomes == people().genomes).all(1)
    assert kept.tolist() == [True, False, False, True]
    assert found.scores.values.tolist() == [[1, 1], [2, 0], [0, 5], [1, 1]]
    assert (found.scores.objectives, found.scores.invalid.any()) == (2, False)


@pytest.mark.parametrize("objectives", [1, 2])
def test_back_off_goes_by_constraints_before_the_metric(objectives: int) -> None:
    before, after = torch.ones(4, 2).double(), torch.full((4, 2), 2.0).double()
    was, now = torch.tensor([0.0, 0.3, 0.0, 0.3]).double(), torch.tensor([0.1, 0.1, 0.0, 0.3]).double()

    def scored(population: Population, index: Tensor) -> tuple[Scores, Cost]:
        first = torch.equal(population.genomes, people().genomes)
        values, beyond = (before, was) if first else (after, now)
        return Scores(values, values[:, 0].isinf(), objectives, beyond), Cost()

    found = developed(
        evaluator.back_off(evaluator.Scoring(scored, lambda n, samples: Cost()), evaluator.Learning(refine, learning))
    )
    assert (found.scored.genomes == people().genomes).all(1).tolist() == [True, False, False, False]
    assert found.scores.violation is not None
    assert found.scores.violation.tolist() == pytest.approx([0.0, 0.1, 0.0, 0.3])
