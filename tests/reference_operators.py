"""Slow, obvious operators on lists, one number at a time: the oracle of test_operators."""

import math


def valid(fitness):
    rows = [i for i, f in enumerate(fitness) if f > -math.inf]
    return rows or list(range(len(fitness)))


def normalised(weights):
    total = sum(weights)
    return [w / total for w in weights]


def tournament(fitness, size):
    """Probability of each individual; fitness must have no ties among valid ones."""
    rows = valid(fitness)
    chances = [0.0] * len(fitness)
    for i in rows:
        worse = sum(fitness[j] < fitness[i] for j in rows)
        chances[i] = ((worse + 1) ** size - worse**size) / len(rows) ** size
    return chances


def truncation(fitness, share):
    keep = max(1, round(share * len(fitness)))
    best = sorted(valid(fitness), key=lambda i: -fitness[i])[:keep]
    return normalised([float(i in best) for i in range(len(fitness))])


def roulette(fitness):
    rows = valid(fitness)
    lowest = min(fitness[i] for i in rows)
    if all(fitness[i] == lowest for i in rows):
        return normalised([float(i in rows) for i in range(len(fitness))])
    return normalised([fitness[i] - lowest if i in rows else 0.0 for i in range(len(fitness))])


def rank(fitness, pressure):
    rows = valid(fitness)
    weights = [0.0] * len(fitness)
    for i in rows:
        worse = sum(fitness[j] < fitness[i] for j in rows)
        equal = sum(fitness[j] == fitness[i] for j in rows)
        mean_rank = worse + (equal - 1) / 2
        weights[i] = 2 - pressure + 2 * (pressure - 1) * mean_rank / max(1, len(rows) - 1)
    return normalised(weights) if sum(weights) else random(fitness)  # the worst of one has a weight of 0 at pressure 2


def random(fitness):
    rows = valid(fitness)
    return normalised([float(i in rows) for i in range(len(fitness))])


def exchange(genomes, parents, mask):
    """Children of nested lists: gene j of child i is the second parent's where `mask[i][j]`."""
    children = []
    for (first, second), chosen in zip(parents, mask, strict=True):
        children.append([genomes[second][j] if c else genomes[first][j] for j, c in enumerate(chosen)])
    return children


def k_point_mask(cuts, genes):
    """Where each child takes from its second parent: behind an odd number of its cuts."""
    rows = []
    for places in cuts:
        chosen, row = False, []
        for j in range(genes):
            row.append(chosen)
            if j in places:
                chosen = not chosen
        rows.append(row)
    return rows


def units(names, shapes):
    """Name the unit of each gene: genes of one output neuron have the same."""
    shapes = dict(zip(names, shapes, strict=True))
    found = []
    for name, shape in shapes.items():
        owner = name
        if name.endswith("bias") and len(shape) == 1:
            weight = name[: -len("bias")] + "weight"
            if weight in shapes and shapes[weight] and shapes[weight][0] == shape[0]:
                owner = weight
        rows = shape[0] if shape else 1
        for o in range(rows):
            found += [(owner, o)] * (math.prod(shape) // rows)
    return found


def scales(genomes, shapes):
    """Root mean square of each parameter, of those individuals where it is finite, or a small number if less."""
    found, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        parts = [row[start : start + size] for row in genomes]
        values = [v for part in parts if all(map(math.isfinite, part)) for v in part]
        mean = sum(v * v for v in values) / len(values) if values else 0
        found.append(max(math.sqrt(mean), 0.01 if len(shape) < 2 else 0.2 / math.sqrt(math.prod(shape[1:]))))
        start += size
    return found
