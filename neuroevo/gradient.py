"""Gradient steps for a whole population at once.

Individuals share no parameter, so the sum of their losses has each individual's own gradient, and one backward trains
all. The gradient of the loss by the logits is written out; from there a linear head's is one matrix product, and any
other head's one backward over the stacked parameters. Individuals are taken in slices that stay in cache and within the
memory limit; what is drawn doesn't depend on the slices.

The optimizers are torch's, step for step: SGD with momentum (Polyak 1964) and Nesterov's (Sutskever et al. 2013), Adam
(Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from neuroevo.engine.cost import Cost
from neuroevo.engine.genome import Layout, Population
from neuroevo.engine.rng import Context, forked, generator
from neuroevo.engine.samples import Samples
from neuroevo.engine.schedules import Schedule, factor
from neuroevo.errors import InputError
from neuroevo.fitness import balanced
from neuroevo.networks.heads import Drop, Forward

TAU = 0.2  # of the log-normal mutation of an individual's own hyperparameters
CPU_SLICE = 2**22  # genes in a slice of individuals, measured best; of heads of one linear layer a quarter of it

PROBE, SIGNS = 64, 4  # samples, and random signs of their outputs, by which sensitivity is measured

Range = tuple[float, ...]  # a hyperparameter that each individual has its own of, between the first and the last
Weights = dict[str, Tensor]  # {name: [r, *shape]}
Beta = Annotated[float, Ge(0), Lt(1)]


class Product(NamedTuple):
    """A linear layer's gradient, not yet multiplied out: one pass over memory less where it is added to something."""

    delta: Tensor  # [r, C, B]: of the loss by the layer's outputs
    features: Tensor  # [B, d] shared or [r, B, d]

    def value(self) -> Tensor:
        """Return the gradient [r, C, d]."""
        r, c, _ = self.delta.shape
        return add(self.delta.new_empty(r, c, self.features.shape[-1]), self, keep=0)


Gradient = Tensor | Product


def value(gradient: Gradient) -> Tensor:
    """Return a gradient [r, ...] multiplied out."""
    return gradient.value() if isinstance(gradient, Product) else gradient


def add(to: Tensor, gradient: Gradient, scale: Tensor | None = None, keep: float = 1) -> Tensor:
    """Turn `to` [r, ...] into keep x to + scale x gradient, in place; `scale` [r, 1, ...]."""
    if isinstance(gradient, Product):
        delta = gradient.delta if scale is None else gradient.delta * scale
        if gradient.features.ndim == 3:
            return to.baddbmm_(delta, gradient.features, beta=keep)
        to.flatten(0, 1).addmm_(delta.flatten(0, 1), gradient.features, beta=keep)
        return to
    if keep != 1:
        to.mul_(keep)
    return to.add_(gradient) if scale is None else to.addcmul_(gradient, scale)


class Optimizer(NamedTuple):
    """A rule that turns gradients into steps."""

    slots: tuple[str, ...]  # what it remembers of each parameter
    # In place: parameter [r, ...], gradient, slots, hyperparameters each [r, 1, ...], steps so far [r, 1, ...]
    step: Callable[[Tensor, Gradient, list[Tensor], dict[str, Tensor], Tensor], None]
    momentum: float | tuple[float, float] | None = None


def sgd(*, momentum: Beta | tuple[Beta, Beta] = 0.9, nesterov: bool = False) -> Optimizer:
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`."""

    def step(p: Tensor, gradient: Gradient, slots: list[Tensor], hyper: dict[str, Tensor], count: Tensor) -> None:
        if nesterov:
            gradient = value(gradient)
            if "weight_decay" in hyper:
                gradient = gradient.addcmul(p, hyper["weight_decay"])
        if isinstance(momentum, tuple):
            velocity = add(slots[0].mul_(hyper["momentum"]), gradient)
        else:
            velocity = add(slots[0], gradient, keep=momentum)
        if nesterov:
            velocity = gradient.addcmul(velocity, hyper["momentum"])  # type: ignore[union-attr]  # multiplied out above
        elif "weight_decay" in hyper:
            velocity.addcmul_(p, hyper["weight_decay"])
        p.addcmul_(velocity, hyper["lr"], value=-1)

    def plain(p: Tensor, gradient: Gradient, slots: list[Tensor], hyper: dict[str, Tensor], count: Tensor) -> None:
        if "weight_decay" in hyper:
            p.mul_(1 - hyper["lr"] * hyper["weight_decay"])
        add(p, gradient, -hyper["lr"])

    return Optimizer((), plain, 0.0) if momentum == 0 else Optimizer(("velocity",), step, momentum)


def _adam(beta1: float, beta2: float, eps: float, decoupled: bool) -> Optimizer:
    def step(p: Tensor, gradient: Gradient, slots: list[Tensor], hyper: dict[str, Tensor], count: Tensor) -> None:
        gradient = value(gradient)
        if "weight_decay" in hyper:
            if decoupled:
                p.mul_(1 - hyper["lr"] * hyper["weight_decay"])
            else:
                gradient = gradient.addcmul(p, hyper["weight_decay"])
        mean = slots[0].lerp_(gradient, 1 - beta1)
        square = slots[1].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (square / (1 - beta2**count)).sqrt_().add_(eps)
        p.addcdiv_(mean * (-hyper["lr"] / (1 - beta1**count)), scale)

    return Optimizer(("mean", "square"), step)


def adam(*, beta1: Beta = 0.9, beta2: Beta = 0.999, eps: Annotated[float, Gt(0)] = 1e-8) -> Optimizer:
    """Adam, as `torch.optim.Adam`."""
    return _adam(beta1, beta2, eps, decoupled=False)


def adamw(*, beta1: Beta = 0.9, beta2: Beta = 0.999, eps: Annotated[float, Gt(0)] = 1e-8) -> Optimizer:
    """Adam with decoupled weight decay, as `torch.optim.AdamW`."""
    return _adam(beta1, beta2, eps, decoupled=True)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}


View = Callable[[Tensor, torch.Generator], Tensor]  # rows of the train split -> rows of augmented views of them


def as_it_is(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return rows as they are: nothing is augmented."""
    return rows


@dataclass(frozen=True)
class Task:
    """What is trained: networks of a layout, on the rows of a train split."""

    layout: Layout
    forward: Forward
    linear: str | None  # the name of the layer where the head is one linear layer
    source: Samples
    train: Tensor  # [rows] int64
    classes: int
    individuals: int  # at a time
    micro: int  # samples at a time
    keep: int  # bytes of batches that are kept for the next slice of individuals
    start: Tensor  # genome [g] that `decay_to_start` pulls towards
    device: torch.device  # where it is trained, wherever the population is kept
    view: View = as_it_is


@dataclass(frozen=True)
class Settings:
    """How a population is trained in each generation; the config's `refine` section, checked."""

    steps: int
    batch_size: int
    lr: float | Range
    weight_decay: float | Range
    label_smoothing: float | Range
    dropout: float | Range | None  # None: the head's own
    mixup: float  # alpha of the Beta distribution; 0 is none
    decay_to_start: float
    schedule: Schedule
    final: float
    who: Literal["all", "children", "elites"]
    share: float
    batches: Literal["shared", "own"]
    optimizer_state: Literal["fresh", "inherit"]
    balanced: bool
    class_weights: bool
    logit_adjustment: float


Refine = Callable[[Population, Context], tuple[Population, Cost]]


Learning = Callable[[Population, int], Cost]  # what a population's learning takes, of so many gradient steps


def refiner(
    task: Task, optimizer: Optimizer, settings: Settings, given: Collection[str] = ()
) -> tuple[Refine, Learning]:
    """Return the gradient part of a generation, and what it takes.

    Hyperparameters that are ranges, and those named in `given`, are traits [n]; the latter are brought along and stay.
    A trait `stream` [n] says whose random numbers an individual has, where that isn't by its row.
    """
    s = settings
    named: dict[str, float | Range | None] = {
        "lr": s.lr, "momentum": optimizer.momentum, "weight_decay": s.weight_decay or None,
        "label_smoothing": s.label_smoothing, "dropout": s.dropout,
    }  # fmt: skip
    ranges = {
        name: 0.0 if value is None else value for name, value in named.items() if name in given or value is not None
    }
    size = min(s.batch_size, len(task.train))
    counts = torch.bincount(task.source.labels[task.train.to(task.source.labels.device)], minlength=task.classes)
    prior = (counts / counts.sum()).clamp_(min=1e-12)
    by_class = counts.sum() / (task.classes * counts.clamp(min=1)) if s.class_weights else None

    def eligible(population: Population) -> Tensor:
        fresh = (population.parents[:, -1] >= 0) | (population.parents[:, 0] < 0)
        return {"all": fresh | True, "children": fresh, "elites": ~fresh}[s.who].nonzero().squeeze(1)

    def chosen(population: Population, context: Context) -> Tensor:
        rows = eligible(population)
        if s.share < 1:
            order = torch.randperm(len(rows), generator=context.generator("refine/who"), device=rows.device)
            rows = rows[order[: round(s.share * len(rows))]].sort().values
        return rows

    def taken(context: Context) -> int:
        """Return how many steps a generation takes: fewer in the last one, where the budget hasn't as many."""
        return s.steps if context.steps is None else min(s.steps, context.steps)

    def learning(population: Population, steps: int) -> Cost:
        return training_cost(len(eligible(population)), s.share, min(s.steps, steps), size)

    def refine(population: Population, context: Context) -> tuple[Population, Cost]:
        population = with_traits(
            population, {name: value for name, value in ranges.items() if name not in given}, context
        )
        rows, steps = chosen(population, context), taken(context)
        if steps == 0 or not len(rows):
            return population, Cost()
        genomes, traits = population.genomes.clone(), dict(population.traits)
        inherits = s.optimizer_state == "inherit" and bool(optimizer.slots)
        if inherits:
            for slot in optimizer.slots:
                traits[slot] = traits[slot].clone() if slot in traits else torch.zeros_like(genomes)
            so_far = traits.get("steps", torch.zeros(len(genomes), device=genomes.device))
            traits["steps"] = so_far.index_add(0, rows, torch.full((len(rows),), float(steps), device=genomes.device))
        streams = traits.get("stream", torch.arange(len(genomes), device=genomes.device))
        draws = Draws(task, replace(s, steps=steps), size, int(streams.max()) + 1, context)
        for part in rows.split(task.individuals):
            x = genomes[part].to(task.device)
            values = {
                name: traits[name][part].to(x) if isinstance(value, tuple) or name in given
                else x.new_full((len(part),), value)
                for name, value in ranges.items()
            }  # fmt: skip
            values["lr"] = values["lr"] * factor(s.schedule, context.progress, s.final)
            slots = [traits[slot][part].to(x) if inherits else torch.zeros_like(x) for slot in optimizer.slots]
            before = so_far[part].to(x) if inherits else x.new_zeros(len(part))
            genomes[part] = train(x, slots, before, values, streams[part], draws).to(genomes)
            if inherits:
                for slot, value in zip(optimizer.slots, slots, strict=True):
                    traits[slot][part] = value.to(genomes)
        return population._replace(genomes=genomes, traits=traits), learning(population, steps)

    def train(
        genomes: Tensor, slots: list[Tensor], before: Tensor, values: dict[str, Tensor], streams: Tensor, draws: "Draws"
    ) -> Tensor:
        """Train genomes [r, g] with the random numbers of `streams` [r]; `slots` are changed in place."""
        weights = {name: w.contiguous() for name, w in task.layout.unflatten(genomes).items()}
        memory = [{name: m.contiguous() for name, m in task.layout.unflatten(slot).items()} for slot in slots]
        pull = task.layout.unflatten(task.start[None]) if s.decay_to_start else {}
        for step, (features, targets, partners, share) in enumerate(draws.batches(streams)):
            soft = soft_targets(targets, partners, share, values["label_smoothing"], task.classes)
            of_loss = features.new_full((features.shape[-2],), 1 / features.shape[-2])  # each sample's share of it
            if by_class is not None:
                of_loss = by_class[targets]
                if partners is not None:
                    of_loss = share * of_loss + (1 - share) * by_class[partners]
                of_loss = of_loss / of_loss.sum(-1, keepdim=True)
            gradients = backward(weights, features, soft, of_loss, draws.dropout(values.get("dropout"), streams, step))
            with torch.no_grad():
                for name, w in weights.items():
                    hyper = {key: v.view(-1, *[1] * (w.ndim - 1)) for key, v in values.items()}
                    count = (before + step + 1).view(-1, *[1] * (w.ndim - 1))
                    gradient = gradients[name]
                    if s.decay_to_start:
                        gradient = value(gradient).add(w - pull[name], alpha=s.decay_to_start)
                    optimizer.step(w, gradient, [m[name] for m in memory], hyper, count)
        for slot, m in zip(slots, memory, strict=True):
            slot.copy_(task.layout.flatten(m))
        return task.layout.flatten(weights)

    def backward(
        weights: Weights, features: Tensor, soft: Tensor, of_loss: Tensor, drop: Callable[[slice], Drop]
    ) -> Mapping[str, Gradient]:
        if task.linear is not None:
            with torch.no_grad():
                logits = task.forward(weights, features, drop(slice(None)))
                delta = logit_gradient(logits, soft, of_loss).mT.contiguous()
                bias = f"{task.linear}.bias"
                return {name: delta.sum(2) if name == bias else Product(delta, features) for name in weights}
        for w in weights.values():
            w.requires_grad_(True)
        total: list[Tensor] = []
        for left in range(0, features.shape[-2], task.micro):
            part = slice(left, left + task.micro)
            with torch.enable_grad():
                logits = task.forward(weights, features[..., part, :], drop(part))
                delta = logit_gradient(logits.detach(), soft[:, part], of_loss[..., part])
                found = torch.autograd.grad(logits, list(weights.values()), delta)
            total = [a.add_(b) for a, b in zip(total, found, strict=True)] if total else list(found)
        for w in weights.values():
            w.requires_grad_(False)
        return dict(zip(weights, total, strict=True))

    def logit_gradient(logits: Tensor, soft: Tensor, of_loss: Tensor) -> Tensor:
        """Return the gradient [r, B, C] of each individual's loss by its logits [r, B, C]."""
        if s.logit_adjustment:  # Menon et al. 2021
            logits = logits + s.logit_adjustment * prior.log()
        delta: Tensor = logits.mT.softmax(1).mT.sub_(soft).mul_(of_loss.unsqueeze(-1))  # as classes lie in memory
        return delta

    return refine, learning


class Sensitivity:
    """How much a network's outputs depend on each gene, on a fixed probe batch.

    The root of the mean over samples of the squares of all outputs' derivatives by a gene (after Lehman et al. 2018,
    safe mutation through gradients). Instead of one backward pass an output, SIGNS are drawn for every sample and
    output: the square of such a sum's derivative is expected to be the sum of the squares (Hutchinson 1990).
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        source = generator(seed, "sensitivity", 0)
        self.rows = task.train[torch.randperm(len(task.train), generator=source)[:PROBE]]
        shape = SIGNS, len(self.rows), task.classes
        self.signs = (2.0 * torch.randint(2, shape, generator=source) - 1).to(task.device)

    def of(self, genomes: Tensor) -> Tensor:
        """Return the sensitivities [n, g] of genomes [n, g]."""
        task = self.task
        features, _ = task.source.batch(self.rows)
        found = torch.empty_like(genomes)
        for out, own in zip(found.split(task.individuals), genomes.split(task.individuals), strict=True):
            own = own.to(task.device).detach().requires_grad_(True)
            squares = torch.zeros_like(own)
            for left in range(0, len(features), task.micro):
                with torch.enable_grad():
                    logits = task.forward(task.layout.unflatten(own), features[left : left + task.micro])
                    for signs in self.signs[:, left : left + task.micro]:
                        weighted = (logits * signs).sum()
                        squares += torch.autograd.grad(weighted, own, retain_graph=True)[0].square()
            out.copy_((squares / len(features) / SIGNS).sqrt_())
        return found

    def cost(self, n: int) -> Cost:
        """Return what the sensitivities of n genomes take."""
        return probed(n, len(self.rows))


def training_cost(n: int, share: float, steps: int, size: int) -> Cost:
    """Return what gradient steps of a share of n genomes take, on batches of so many samples."""
    samples = round(share * n) * steps * size
    return Cost(forward=samples, backward=samples)


def probed(n: int, train: int) -> Cost:
    """Return what the sensitivities of n genomes take, with so many train images."""
    samples = n * min(PROBE, train)
    return Cost(forward=samples, backward=samples * SIGNS)


def soft_targets(targets: Tensor, partners: Tensor | None, share: float, smoothing: Tensor, classes: int) -> Tensor:
    """Return target distributions [r or 1, B, C]: one-hot, mixed with those of mixup's partners, smoothed.

    Targets are [B] or [r, B]; `smoothing` [r] is spread over all classes, as torch's `label_smoothing`.
    """
    soft = torch.nn.functional.one_hot(targets, classes).to(smoothing.dtype)
    if partners is not None:
        soft = share * soft + (1 - share) * torch.nn.functional.one_hot(partners, classes)
    soft = soft if soft.ndim == 3 else soft.unsqueeze(0)
    if not bool(smoothing.any()):
        return soft
    smoothing = smoothing.view(-1, 1, 1)
    return soft * (1 - smoothing) + smoothing / classes


def with_traits(population: Population, ranges: dict[str, float | Range], context: Context) -> Population:
    """Give every individual its own of each hyperparameter that is a range.

    New individuals draw theirs, log-uniformly where the range is above zero; more than two values are dealt round
    instead. Those bred mutate what they inherited by a log-normal factor, within the range (Schwefel's rule; population
    based training does likewise, Jaderberg et al. 2017).
    """
    traits, n = dict(population.traits), len(population.genomes)
    bred = population.parents[:, -1] >= 0
    streams = traits.get("stream", torch.arange(n, device=population.genomes.device))
    drawn = int(streams.max()) + 1
    for name, value in ranges.items():
        if not isinstance(value, tuple):
            continue
        low, high = value[0], value[-1]
        generator = context.generator(f"refine/{name}")
        device = population.genomes.device
        if name not in traits and len(value) > 2:
            traits[name] = torch.tensor(value, device=device)[streams % len(value)]
        elif name not in traits:
            u = torch.rand(drawn, generator=generator, device=device)[streams]
            traits[name] = low * (high / low) ** u if low > 0 else low + (high - low) * u
        else:
            step = (TAU * torch.randn(drawn, generator=generator, device=device)[streams]).exp()
            traits[name] = torch.where(bred, traits[name] * step, traits[name]).clamp(low, high)
    return population._replace(traits=traits)


def slice_size(
    genes: int, dim: int, widths: Sequence[int], linear: bool, slots: int, own: bool, size: int, limit: int,
    device: torch.device,
) -> int:  # fmt: skip
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


Batch = tuple[Tensor, Tensor, Tensor | None, float]


class Draws:
    """What a generation's gradient steps draw: batches, mixup, dropout. None of it depends on slices."""

    def __init__(self, task: Task, s: Settings, size: int, n: int, context: Context) -> None:
        self.task, self.s, self.size, self.context = task, s, size, context
        generator = context._replace(device=torch.device("cpu")).generator("refine/batches")
        shape = (n, s.steps) if s.batches == "own" else (1, s.steps)
        self.rows = task.view(self._rows(shape, generator), generator)  # [n or 1, steps, size]
        self.kept: list[Batch] | None = None  # shared batches, for the next slice of individuals
        self.shares = torch.ones(s.steps)
        if s.mixup:  # Zhang et al. 2018; Beta(a, a) as a ratio of Gammas, drawn in a fork
            with forked(generator):
                self.shares = torch.distributions.Beta(s.mixup, s.mixup).sample((s.steps,))

    def _rows(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        train = self.task.train
        if self.s.balanced:
            return balanced(train, self.task.source.labels.cpu()[train], (*shape, self.size), generator)
        lines = []
        for _ in range(shape[0]):  # epochs: every sample once before any comes again
            whole = len(train) - len(train) % self.size
            epochs = -(-shape[1] * self.size // whole)
            orders = [torch.randperm(len(train), generator=generator)[:whole] for _ in range(epochs)]
            lines.append(torch.cat(orders)[: shape[1] * self.size].view(shape[1], self.size))
        return train[torch.stack(lines)]

    def batches(self, individuals: Tensor) -> Iterator[Batch]:
        """Yield each step's features [B, d] or [r, B, d], targets, mixup's partners' targets, and the mixing share."""
        if self.kept is not None:
            yield from self.kept
            return
        made: list[Batch] = []
        for step in range(self.s.steps):
            batch = self._batch(individuals, step)
            if self.s.batches == "shared" and batch[0].nbytes * self.s.steps <= self.task.keep:
                made.append(batch)
            yield batch
        self.kept = made if len(made) == self.s.steps else None

    def _batch(self, individuals: Tensor, step: int) -> Batch:
        index = self.rows[individuals.cpu(), step] if self.s.batches == "own" else self.rows[:, step]
        features, targets = self.task.source.batch(index.flatten())
        features, targets = features.unflatten(0, index.shape), targets.unflatten(0, index.shape)
        if self.s.batches == "shared":
            features, targets = features[0], targets[0]
        partners, share = None, float(self.shares[step])
        if self.s.mixup:  # the batch in reverse is as good a partner as any
            features = share * features + (1 - share) * features.flip(-2)
            partners = targets.flip(-1)
        return features, targets, partners, share

    def dropout(self, rate: Tensor | None, individuals: Tensor, step: int) -> Callable[[slice], Drop]:
        """Return what Dropout layers do in this step to a part of the batch.

        Each individual's masks are from a stream of its own.
        """

        def of(part: slice) -> Drop:
            layer = [0]

            def drop(x: Tensor, own: float) -> Tensor:
                layer[0] += 1
                p = x.new_full((len(x),), own) if rate is None else rate
                if not bool(p.any()):
                    return x
                context = self.context._replace(device=x.device)
                u = torch.stack([
                    torch.rand(x.shape[1], self.size, device=x.device,
                               generator=context.generator(f"refine/dropout/{step}/{layer[0]}/{i}"))
                    for i in individuals.tolist()
                ])  # fmt: skip
                keep = 1 - p.view(-1, 1, 1)
                return x * (u[..., part] < keep) / keep

            return drop

        return of
