"""Gradient steps for a whole population at once.

Individuals share no parameter, so the sum of their losses has each individual's own gradient, and one backward trains
all. The gradient of the loss by the logits is written out; from there a linear head's is one matrix product, and any
other head's one backward over the stacked parameters. Individuals are taken in slices that stay in cache and within the
memory limit; what is drawn doesn't depend on the slices.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from neuroevo import devices
from neuroevo.engine.cost import Cost
from neuroevo.engine.evaluator import Learning
from neuroevo.engine.execution import Work
from neuroevo.engine.genome import BRED, KEPT, Population
from neuroevo.engine.rng import Context
from neuroevo.engine.schedules import factor
from neuroevo.errors import InputError
from neuroevo.learning.draws import Draws
from neuroevo.learning.losses import soft_targets
from neuroevo.learning.optimizers import Gradient, Optimizer, Product, value
from neuroevo.learning.task import Range, Settings, Task, Weights
from neuroevo.networks.heads import Drop

TAU = 0.2  # of the log-normal mutation of an individual's own hyperparameters
CPU_SLICE = 2**22  # genes in a slice of individuals, measured best; of heads of one linear layer a quarter of it


class Slice(NamedTuple):
    """Some individuals, with all that is theirs when they learn: the unit of an executor's work."""

    genomes: Tensor  # [r, g]
    slots: list[Tensor]  # what the optimizer keeps, each [r, g]
    before: Tensor  # steps so far [r]
    values: dict[str, Tensor]  # hyperparameters, each [r]
    streams: Tensor  # whose random numbers they have [r], on the CPU


@dataclass(frozen=True)
class Trainer:
    """What a slice of individuals learns by."""

    task: Task
    optimizer: Optimizer
    settings: Settings
    unused: frozenset[str]  # hyperparameters that are 0 for all
    prior: Tensor  # [C], the classes' shares
    by_class: Tensor | None  # [C], weights of samples by their class

    def train(self, draws: Draws, own: Slice) -> tuple[Tensor, list[Tensor]]:
        """Train a slice; return its genomes [r, g] and what the optimizer keeps of it, changed in place."""
        task, s, by_class = self.task, self.settings, self.by_class
        genomes, slots, before, values, streams = own
        weights = {name: w.contiguous() for name, w in task.layout.unflatten(genomes).items()}
        memory = [{name: m.contiguous() for name, m in task.layout.unflatten(slot).items()} for slot in slots]
        pull = task.layout.unflatten(task.start[None]) if s.decay_to_start else {}
        for step, (features, targets, partners, share) in enumerate(draws.batches(task, streams)):
            soft = soft_targets(targets, partners, share, values.get("label_smoothing"), task.classes)
            of_loss = features.new_full((features.shape[-2],), 1 / features.shape[-2])  # each sample's share of it
            if by_class is not None:
                of_loss = by_class[targets]
                if partners is not None:
                    of_loss = share * of_loss + (1 - share) * by_class[partners]
                of_loss = of_loss / of_loss.sum(-1, keepdim=True)
            rate = 0.0 if "dropout" in self.unused else values.get("dropout")
            drop = draws.dropout(rate, streams, step)
            gradients = self._backward(weights, features, soft, of_loss, drop)
            with torch.no_grad():
                for name, w in weights.items():
                    hyper = {key: v.view(-1, *[1] * (w.ndim - 1)) for key, v in values.items()}
                    count = (before + step + 1).view(-1, *[1] * (w.ndim - 1))
                    gradient = gradients[name]
                    if s.decay_to_start:
                        gradient = value(gradient).add(w - pull[name], alpha=s.decay_to_start)
                    self.optimizer.step(w, gradient, [m[name] for m in memory], hyper, count)
        for slot, m in zip(slots, memory, strict=True):
            slot.copy_(task.layout.flatten(m))
        return task.layout.flatten(weights), slots

    def _backward(
        self, weights: Weights, features: Tensor, soft: Tensor, of_loss: Tensor, drop: Callable[[slice], Drop]
    ) -> Mapping[str, Gradient]:
        task = self.task
        if task.linear is not None:
            with torch.no_grad():
                logits = task.forward(weights, features, drop(slice(None)))
                delta = self._logit_gradient(logits, soft, of_loss).mT.contiguous()
                bias = f"{task.linear}.bias"
                return {name: delta.sum(2) if name == bias else Product(delta, features) for name in weights}
        for w in weights.values():
            w.requires_grad_(True)
        total: list[Tensor] = []
        for left in range(0, features.shape[-2], task.micro):
            part = slice(left, left + task.micro)
            with torch.enable_grad():
                logits = task.forward(weights, features[..., part, :], drop(part))
                delta = self._logit_gradient(logits.detach(), soft[:, part], of_loss[..., part])
                found = torch.autograd.grad(logits, list(weights.values()), delta)
            total = [a.add_(b) for a, b in zip(total, found, strict=True)] if total else list(found)
        for w in weights.values():
            w.requires_grad_(False)
        return dict(zip(weights, total, strict=True))

    def _logit_gradient(self, logits: Tensor, soft: Tensor, of_loss: Tensor) -> Tensor:
        """Return the gradient [r, B, C] of each individual's loss by its logits [r, B, C]."""
        if self.settings.logit_adjustment:  # Menon et al. 2021
            logits = logits + self.settings.logit_adjustment * self.prior.log()
        delta: Tensor = logits.mT.softmax(1).mT.sub_(soft).mul_(of_loss.unsqueeze(-1))  # as classes lie in memory
        return delta


def train_slice(trainer: Trainer, draws: Draws, own: Slice) -> tuple[Tensor, list[Tensor]]:
    """Train a slice of individuals, by draws that all slices have in common."""
    return trainer.train(draws, own)


def refiner(
    task: Task, optimizer: Optimizer, settings: Settings, given: Collection[str] = (), islands: int = 1
) -> Learning:
    """Return the gradient part of a generation, and what it takes.

    Hyperparameters that are ranges, and those named in `given`, are traits [n]; the latter are brought along and stay.
    A trait `stream` [n] says whose random numbers an individual has, where that isn't by its row. A population is of
    so many `islands`, as many rows each, that draw apart.
    """
    s = settings
    named: dict[str, float | Range | None] = {
        "lr": s.lr,
        "momentum": optimizer.momentum,
        "weight_decay": s.weight_decay or None,
        "label_smoothing": s.label_smoothing,
        "dropout": s.dropout,
    }
    ranges = {
        name: 0.0 if value is None else value for name, value in named.items() if name in given or value is not None
    }
    # What is 0 for all takes no part: to look at the values of each would wait for them.
    unused = {name for name in ("label_smoothing", "dropout") if ranges.get(name) == 0 and name not in given}
    size = min(s.batch_size, len(task.train))
    counts = torch.bincount(task.source.labels[task.train.to(task.source.labels.device)], minlength=task.classes)
    prior = (counts / counts.sum()).clamp_(min=1e-12)
    by_class = counts.sum() / (task.classes * counts.clamp(min=1)) if s.class_weights else None
    trainer = Trainer(task, optimizer, s, frozenset(unused), prior, by_class)
    asked: list[tuple[Tensor, Tensor]] = []  # the roles that were asked about last, and the rows

    def eligible(population: Population) -> Tensor:
        """Return the rows that may learn, on the CPU: a generation asks more than once, and waits for them once."""
        if s.who == "all":
            return torch.arange(len(population.genomes))
        roles = population.roles
        if not asked or asked[0][0] is not roles:
            asked[:] = [(roles, ((roles == KEPT) == (s.who == "elites")).cpu().nonzero().squeeze(1))]
        return asked[0][1]

    def choose(population: Population, context: Context) -> Tensor:
        """Return the rows that learn, on the CPU."""
        parts = by_island(eligible(population), len(population.genomes))
        if s.share == 1:
            return torch.cat(parts)
        chosen = []
        for i, rows in enumerate(parts):
            generator = context._replace(device=rows.device, island=context.island + i).generator("refine/who")
            order = torch.randperm(len(rows), generator=generator)
            chosen.append(rows[order[: round(s.share * len(rows))]].sort().values)
        return torch.cat(chosen)

    def by_island(rows: Tensor, n: int) -> list[Tensor]:
        """Return the rows [k] of n individuals, in their order, of each island."""
        if islands == 1:
            return [rows]
        ends = torch.searchsorted(rows, torch.arange(1, islands) * (n // islands))
        return list(rows.tensor_split(ends))

    def steps_left(context: Context) -> int:
        """Return how many steps a generation takes: fewer in the last one, where the budget hasn't as many."""
        return s.steps if context.steps is None else min(s.steps, context.steps)

    def cost(population: Population, steps: int) -> Cost:
        parts = by_island(eligible(population), len(population.genomes))
        costs = [training_cost(len(rows), s.share, min(s.steps, steps), size) for rows in parts]
        return sum(costs, Cost())

    def refine(population: Population, context: Context) -> tuple[Population, Cost]:
        population = with_traits(
            population, {name: value for name, value in ranges.items() if name not in given}, context, islands
        )
        chosen, steps = choose(population, context), steps_left(context)
        if steps == 0 or not len(chosen):
            return population, Cost()
        rows = devices.send(chosen, population.genomes.device)
        genomes, traits = population.genomes.clone(), dict(population.traits)
        inherits = s.optimizer_state == "inherit" and bool(optimizer.slots)
        if inherits:
            for slot in optimizer.slots:
                traits[slot] = traits[slot].clone() if slot in traits else torch.zeros_like(genomes)
            so_far = traits.get("steps", torch.zeros(len(genomes), device=genomes.device))
            traits["steps"] = so_far.index_add(0, rows, torch.full((len(rows),), float(steps), device=genomes.device))
        streams = traits["stream"].cpu() if "stream" in traits else torch.arange(len(genomes))
        draws = Draws(task, replace(s, steps=steps), size, int(streams.max()) + 1, context, islands=islands)
        own_rows = by_island(chosen, len(genomes))
        cuts = [len(part) for of_one in own_rows for part in of_one.split(task.individuals) if len(part)]
        parts = rows.split(cuts)

        def values_of(name: str, of: float | Range, part: Tensor, like: Tensor) -> Tensor:
            if isinstance(of, tuple) or name in given:
                return traits[name][part].to(like)
            return like.new_full((len(part),), of)

        def slices() -> Iterator[Slice]:
            for part, own in zip(parts, streams[chosen].split(cuts), strict=True):
                x = population.genomes[part].to(task.device)
                values = {name: values_of(name, of, part, x) for name, of in ranges.items() if name not in unused}
                values["lr"] = values["lr"] * factor(s.schedule, context.progress, s.final)
                slots = [traits[slot][part].to(x) if inherits else torch.zeros_like(x) for slot in optimizer.slots]
                before = so_far[part].to(x) if inherits else x.new_zeros(len(part))
                yield Slice(x, slots, before, values, own)

        results = task.executor.map(Work(train_slice, trainer, draws), slices())
        for part, (learnt, slots) in zip(parts, results, strict=True):
            genomes[part] = learnt.to(genomes)
            if inherits:
                for slot, own in zip(optimizer.slots, slots, strict=True):
                    traits[slot][part] = own.to(genomes)
        return population._replace(genomes=genomes, traits=traits), cost(population, steps)

    return Learning(refine, cost, s.steps)


def training_cost(n: int, share: float, steps: int, size: int) -> Cost:
    """Return the cost of gradient steps of a share of n genomes, on batches of so many samples."""
    samples = round(share * n) * steps * size
    return Cost(forward=samples, backward=samples)


def with_traits(
    population: Population, ranges: dict[str, float | Range], context: Context, islands: int = 1
) -> Population:
    """Give every individual its own of each hyperparameter that is a range.

    New individuals draw theirs, log-uniformly where the range is above zero; more than two values are dealt round
    instead. Those bred mutate what they inherited by a log-normal factor, within the range (Schwefel's rule; population
    based training does likewise, Jaderberg et al. 2017).
    """
    if not any(isinstance(given, tuple) for given in ranges.values()):
        return population
    traits, n = dict(population.traits), len(population.genomes)
    bred = population.roles == BRED
    streams = traits.get("stream", torch.arange(n, device=population.genomes.device))
    drawn = (int(streams.max()) + 1 if "stream" in traits else n) // islands
    for name, given in ranges.items():
        if not isinstance(given, tuple):
            continue
        low, high = given[0], given[-1]
        device = population.genomes.device
        here = range(context.island, context.island + islands)
        generators = [context._replace(island=i).generator(f"refine/{name}") for i in here]
        if name not in traits and len(given) > 2:
            traits[name] = torch.tensor(given, device=device)[streams % drawn % len(given)]
        elif name not in traits:
            u = torch.cat([torch.rand(drawn, generator=g, device=device) for g in generators])[streams]
            traits[name] = low * (high / low) ** u if low > 0 else low + (high - low) * u
        else:
            u = torch.cat([torch.randn(drawn, generator=g, device=device) for g in generators])[streams]
            step = (TAU * u).exp()
            traits[name] = torch.where(bred, traits[name] * step, traits[name]).clamp(low, high)
    return population._replace(traits=traits)


def slice_size(
    genes: int,
    dim: int,
    widths: Sequence[int],
    *,
    linear: bool,
    slots: int,
    own: bool,
    size: int,
    limit: int,
    device: torch.device,
) -> int:
    """Return how many heads train at a time within the memory limit; InputError where it is too small for one.

    `genes` of a head on `dim` features with layers of these widths, `slots` that the optimizer keeps, `own` batches or
    shared ones of `size` samples.
    """
    activations = 6 * 4 * size * sum(widths)
    inputs = 3 * 4 * size * dim
    each = 4 * genes * (5 + 2 * slots) + activations + (inputs if own else 0)
    shared = 0 if own else inputs
    fits = (limit // 2 - shared) // each  # an eighth is for batches that are kept, the rest the allocator's
    if fits < 1:
        raise InputError(
            f"{limit} bytes is too little to train one individual; at least {2 * (each + shared)}",
            option="limit",
        )
    if device.type != "cpu":
        return int(fits)
    return int(min(fits, max(1, (CPU_SLICE // 4 if linear else CPU_SLICE) // genes)))
