"""Problems of one's own function: of genomes, or of a module, of which nothing but that function is known.

Each call for a genome counts as one forward sample, and validation calls the function again.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from neuroevo.engine.cost import Cost
from neuroevo.engine.evaluator import Scoring, plain
from neuroevo.engine.execution import LOCAL, Executor, Work
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.problem import VIOLATION, Problem, by_metric
from neuroevo.engine.scores import Scores
from neuroevo.errors import InputError
from neuroevo.networks.cut import match
from neuroevo.networks.spaces import Origin, Space, full, lay
from neuroevo.problems.constraints import Constraint, of_numbers
from neuroevo.problems.metric import FITNESS, numbers

OfGenomes = Callable[[Tensor], Tensor]  # genomes [n, g] -> fitness [n], the higher the better
OfModule = Callable[[nn.Module], float | Tensor | Mapping[str, float | Tensor]]
Judge = Callable[[Tensor], list[dict[str, float]]]  # genomes [n, g] -> what each one is worth, the fitness first


def of_genomes(
    fitness: OfGenomes,
    start: Tensor,
    *,
    sigma: float | Tensor = 0.1,
    layout: Layout | None = None,
    subject_to: Sequence[Constraint] = (),
) -> Problem:
    """Return the problem of a function of genomes [n, g] -> fitness [n], the higher the better, around `start` [g].

    `start` may be several genomes [s, g]. A fitness that isn't finite is invalid.
    """
    start = torch.atleast_2d(start)

    def judge(genomes: Tensor) -> list[dict[str, float]]:
        found = torch.as_tensor(fitness(genomes.clone()), dtype=torch.float64, device=genomes.device)
        if found.shape != (len(genomes),):
            said = f"{list(found.shape)} returned for {len(genomes)} genomes, one number each expected"
            raise InputError(said, option="fitness")
        return [{FITNESS: value} for value in found.tolist()]

    layout = layout or Layout(("genome",), ((start.shape[1],),))
    return problem_of(judge, start, layout, sigma=sigma, subject_to=subject_to)


class Evolvable:
    """A module whose parameters, those that patterns match, are genes; it stays as it is, and gives copies of itself.

    A copy is in eval mode with the genes of one individual, all else as it was made.
    """

    def __init__(
        self,
        module: nn.Module,
        trainable: Sequence[str],
        device: torch.device,
        *,
        space: Callable[[Origin], Space] = full,
        sources: Sequence[Mapping[str, Tensor]] = (),
        seed: int = 0,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(f"a torch module expected, a {type(module).__name__} given", option="model")
        self.made = deepcopy(module).to(device).eval().requires_grad_(False)
        parameters = dict(self.made.named_parameters())
        names = match(parameters, trainable) if trainable else list(parameters)
        if not names:
            what = f"{', '.join(trainable)} matches none" if trainable else "the module has no parameters"
            raise InputError(f"{what}; there are: {', '.join(list(parameters)[:8]) or 'none'}", option="trainable")
        odd = [name for name in names if not parameters[name].is_floating_point()]
        if odd:
            raise InputError(f"{odd[0]} is no tensor of real numbers", option="trainable")
        own = {name: parameters[name].float()[None] for name in names}
        for i, weights in enumerate(sources):
            for name, here in self.made.named_buffers():
                there = weights.get(name)
                if here.is_floating_point() and there is not None and not torch.equal(here.cpu(), there.cpu()):
                    line = f"sources[{i}] has another {name}, which is no weight: no space has a gene for it"
                    raise InputError(line, option="sources")
        given = tuple(_of_source(weights, own, f"sources[{i}]") for i, weights in enumerate(sources))
        self.space = lay(space, Origin(own, given, seed))
        self.layout, self.start = self.space.layout, self.space.start()
        self.decode(self.start[0])  # which refuses what a space can't be around

    def decode(self, genome: Tensor) -> dict[str, Tensor]:
        """Return the weights {name: [1, *shape]} of a genome [g]."""
        return self.space.decode(self.layout.unflatten(genome[None]))

    def of(self, genome: Tensor) -> nn.Module:
        """Return a copy of the module with a genome's [g] weights."""
        module = deepcopy(self.made)
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for name, weight in self.decode(genome).items():
                parameters[name].copy_(weight[0])
        return module


def _of_source(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return weights as `own` {name: [1, *shape]} has them; InputError where one lacks or has another shape."""
    for name, here in own.items():
        found = tuple(weights[name].shape) if name in weights else "nothing"
        if found != tuple(here.shape[1:]):
            raise InputError(f"{source} has {found} for {name}, of shape {tuple(here.shape[1:])}", option="sources")
    return {name: weights[name].detach().to(here)[None] for name, here in own.items()}


def of_module(
    fitness: OfModule,
    evolvable: Evolvable,
    *,
    sigma: float | Tensor = 0.1,
    executor: Executor = LOCAL,
    subject_to: Sequence[Constraint] = (),
) -> Problem:
    """Return the problem of a function of a module -> a number, or numbers by name of which the first is fitness.

    The higher the better; one individual is asked after another. It needs no gradient, and may return NaN: invalid.
    """
    parts = fitness, evolvable

    def judge(genomes: Tensor) -> list[dict[str, float]]:
        return list(executor.map(Work(judge_one, parts), genomes))

    return problem_of(judge, evolvable.start, evolvable.layout, sigma=sigma, subject_to=subject_to)


def judge_one(parts: tuple[OfModule, Evolvable], nothing: None, genome: Tensor) -> dict[str, float]:
    """Return what a function says of the module with a genome's [g] weights."""
    fitness, evolvable = parts
    return numbers(fitness(evolvable.of(genome)))


def problem_of(
    judge: Judge, start: Tensor, layout: Layout, *, sigma: float | Tensor, subject_to: Sequence[Constraint] = ()
) -> Problem:
    """Return the problem of what a judge says of genomes; what isn't finite is invalid.

    Constraints are on numbers that the judge returns by name.
    """

    def score(population: Population, rows: Tensor) -> tuple[Scores, Cost]:
        found, device = judge(population.genomes), population.genomes.device
        values = torch.tensor([next(iter(m.values())) for m in found], dtype=torch.float64, device=device)
        invalid = ~values.isfinite()
        scores = Scores(values.masked_fill(invalid, -torch.inf)[:, None], invalid)
        if subject_to:
            beyond = torch.tensor([of_numbers(m, subject_to) for m in found], dtype=torch.float64, device=device)
            scores = scores._replace(violation=beyond.masked_fill(invalid, torch.inf))
        return scores, Cost(forward=len(values))

    def validate(genomes: Tensor) -> tuple[list[dict[str, float]], Cost]:
        found = judge(genomes)
        beyond = [{VIOLATION: of_numbers(m, subject_to)} if subject_to else {} for m in found]
        # Under one name whatever the function calls it, so that candidates can be compared.
        named = [{FITNESS: next(iter(m.values())), **m, **own} for m, own in zip(found, beyond, strict=True)]
        return named, Cost(validation=len(genomes))

    return Problem(
        layout=layout,
        start=start,
        sigma=sigma,
        evaluator=plain(Scoring(score, lambda n, samples: Cost(forward=n))),
        batch=lambda generation, size: torch.empty(0, dtype=torch.int64),
        validate=validate,
        merit=by_metric(FITNESS, constrained=bool(subject_to)),
    )
