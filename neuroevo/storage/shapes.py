"""Shapes and types of a checkpoint's tensors, which have to fit each other."""

from typing import Any

import torch
from torch import Tensor

from neuroevo.engine.genome import Population
from neuroevo.engine.scores import Scores


def check(
    population: Population, scores: Scores, champion: Tensor, front: tuple[Tensor, Tensor] | None, genes: int
) -> None:
    """Raise ValueError where a population of `genes` genes, its scores, champion [g] and front don't fit each other."""
    n = len(population.genomes)
    single, double, whole = torch.float32, torch.float64, torch.int64
    shapes: dict[str, tuple[Tensor, torch.dtype | None, tuple[int | None, ...]]] = {
        "population/genomes": (population.genomes, single, (n, genes)),
        "population/parents": (population.parents, whole, (n, None)),
        "population/roles": (population.roles, torch.int8, (n,)),
        "population/fitness": (scores.values, double, (n, None)),
        "population/invalid": (scores.invalid, torch.bool, (n,)),
        "champion/genome": (champion, single, (genes,)),
        **{
            f"population/traits/{key}": (trait, None, (n, *[None] * (trait.ndim - 1)))
            for key, trait in population.traits.items()
        },
    }
    if scores.violation is not None:
        shapes["population/violation"] = scores.violation, double, (n,)
    if front is not None:
        genomes, fitness = front
        shapes["front/genomes"] = genomes, single, (None, genes)
        shapes["front/fitness"] = fitness, double, (len(genomes), None)
    for key, (tensor, kind, shape) in shapes.items():
        right = tensor.ndim == len(shape) and all(b in (None, a) for a, b in zip(tensor.shape, shape, strict=True))
        if not right or kind not in (None, tensor.dtype):
            raise ValueError(f"/{key} is {tensor.dtype} of shape {tuple(tensor.shape)}")


def check_state(state: Any, template: Any, key: str, rows: bool = True) -> None:
    """Raise ValueError where an algorithm's state doesn't fit its template, which is a state that has just begun.

    Lengths that are 0 in the template are free, such as those of what was told so far; those beside each other agree,
    and with the population beside them. That and what belongs to it may be twice as long: those whom it remembers are
    behind it. Traits that the template lacks have a row for each individual. Without `rows` lengths are free: a user's
    own state may grow as it likes.
    """
    if isinstance(template, Tensor):
        _check_tensor(state, template, key, rows)
        return
    ours = __package__.partition(".")[0]
    rows = rows and (isinstance(template, dict) or type(template).__module__.startswith(f"{ours}."))
    own, parts = (each if isinstance(each, dict) else each._asdict() for each in (state, template))
    if isinstance(template, Population):
        lengths = {each.shape[:1] for each in (*state.traits.values(), state.genomes, state.parents, state.roles)}
    elif isinstance(template, dict):
        lengths = set()
    else:
        lengths = {found.shape[:1] for found, like in _leaves(own, parts) if like.shape[:1] == (0,)}
        population = own.get("population")
        if isinstance(population, Population) and lengths - {(0,)}:
            lengths.add(population.genomes.shape[:1])
    for name in parts.keys() & own.keys():
        check_state(own[name], parts[name], f"{key}/{name}", rows)
    if (rows or isinstance(template, Population)) and len(lengths) > 1:
        raise ValueError(f"{key} has {' and '.join(str(list(n)) for n in sorted(lengths))} rows beside each other")


def _check_tensor(tensor: Tensor, like: Tensor, key: str, rows: bool) -> None:
    most = like.ndim + (0 in like.shape[:1])  # fitness of many objectives has a column for each
    fits = like.ndim <= tensor.ndim <= most and tensor.dtype == like.dtype
    if fits and like.ndim:
        n, own = len(like), len(tensor)
        several = key.endswith("/start") and own > 0  # which a run may begin with
        fits = not rows or not n or own in (n, 2 * n) or several
    if not fits or any(b not in (0, a) for a, b in zip(tensor.shape[1:], like.shape[1:], strict=False)):
        was, right = (f"{x.dtype} {tuple(x.shape)}" for x in (tensor, like))
        raise ValueError(f"{key} is {was}, like {right} expected; written by another algorithm")


def _leaves(state: Any, template: Any) -> list[tuple[Tensor, Tensor]]:
    """Return the tensors of a state that stand beside each other, each with its template's."""
    if isinstance(template, Tensor):
        return [(state, template)]
    if not isinstance(template, dict):
        return []
    return [pair for name in template.keys() & state.keys() for pair in _leaves(state[name], template[name])]
