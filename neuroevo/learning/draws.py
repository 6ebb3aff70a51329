"""Random draws of gradient steps: batches, partners for mixup, dropout."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from neuroevo.engine.batches import draw_balanced
from neuroevo.engine.rng import Context, fork
from neuroevo.learning.task import Settings, Task
from neuroevo.networks.heads import Drop

Batch = tuple[Tensor, Tensor, Tensor | None, float]


def on_island(context: Context, island: int) -> torch.Generator:
    """Return an island's generator of batches, on the CPU."""
    return context._replace(device=torch.device("cpu"), island=island).generator("refine/batches")


class Draws:
    """The draws of a generation's gradient steps: batches, mixup, dropout. None of it depends on slices.

    Of n individuals on so many `islands` those of each draw their own; what all share is the first island's.
    """

    def __init__(self, task: Task, s: Settings, size: int, n: int, context: Context, *, islands: int = 1) -> None:
        self.s, self.size, self.context = s, size, context
        self.each = n // islands
        shape = (self.each, s.steps) if s.batches == "own" else (1, s.steps)
        here = range(context.island, context.island + islands) if s.batches == "own" else [0]
        generator = on_island(context, 0)
        first = self._views(task, shape, generator)
        others = {i: self._views(task, shape, on_island(context, i)) for i in here if i}
        self.rows = torch.cat([others.get(i, first) for i in here])  # [n or 1, steps, size]
        self.kept: list[Batch] | None = None  # shared batches, for the next slice of individuals
        self.shares = torch.ones(s.steps)
        if s.mixup:  # Zhang et al. 2018; Beta(a, a) as a ratio of Gammas, drawn in a fork
            with fork(generator):
                self.shares = torch.distributions.Beta(s.mixup, s.mixup).sample((s.steps,))

    def _views(self, task: Task, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return task.view(self._rows(task, shape, generator), generator)

    def _rows(self, task: Task, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        train = task.train
        if self.s.balanced:
            return draw_balanced(train, task.labels, (*shape, self.size), generator)
        lines = []
        for _ in range(shape[0]):  # epochs: every sample once before any comes again
            whole = len(train) - len(train) % self.size
            epochs = -(-shape[1] * self.size // whole)
            orders = [torch.randperm(len(train), generator=generator)[:whole] for _ in range(epochs)]
            lines.append(torch.cat(orders)[: shape[1] * self.size].view(shape[1], self.size))
        return train[torch.stack(lines)]

    def batches(self, task: Task, individuals: Tensor) -> Iterator[Batch]:
        """Yield each step's features [B, d] or [r, B, d], targets, mixup's partners' targets, and the mixing share.

        `individuals` [r] are streams, on the CPU; the task is that which the draws are of.
        """
        if self.kept is not None:
            yield from self.kept
            return
        made: list[Batch] = []
        for step in range(self.s.steps):
            batch = self._batch(task, individuals, step)
            if self.s.batches == "shared" and batch[0].nbytes * self.s.steps <= task.keep:
                made.append(batch)
            yield batch
        self.kept = made if len(made) == self.s.steps else None

    def _batch(self, task: Task, individuals: Tensor, step: int) -> Batch:
        index = self.rows[individuals, step] if self.s.batches == "own" else self.rows[:, step]
        features, targets = task.source.batch(index.flatten())
        features, targets = features.unflatten(0, index.shape), targets.unflatten(0, index.shape)
        if self.s.batches == "shared":
            features, targets = features[0], targets[0]
        partners, share = None, float(self.shares[step])
        if self.s.mixup:  # the batch in reverse is as good a partner as any
            features = share * features + (1 - share) * features.flip(-2)
            partners = targets.flip(-1)
        return features, targets, partners, share

    def _stream(self, name: str, individual: int, device: torch.device) -> torch.Generator:
        island, i = divmod(individual, self.each)
        context = self.context._replace(device=device, island=self.context.island + island)
        return context.generator(f"{name}/{i}")

    def dropout(self, rate: Tensor | float | None, individuals: Tensor, step: int) -> Callable[[slice], Drop]:
        """Return the dropout in this step of a part of the batch, at each individual's rate [r], or the layer's own.

        Each individual's masks are from a stream of its own, `individuals` [r] on the CPU.
        """

        def of(part: slice) -> Drop:
            layer = [0]

            def drop(x: Tensor, own: float) -> Tensor:
                layer[0] += 1
                p = own if rate is None else rate
                if not isinstance(p, Tensor):
                    if p == 0:
                        return x
                    p = x.new_full((len(x),), p)
                shape, name = (x.shape[1], self.size), f"refine/dropout/{step}/{layer[0]}"
                streams = [self._stream(name, i, x.device) for i in individuals.tolist()]
                draws = [torch.rand(shape, device=x.device, generator=stream) for stream in streams]
                u = torch.stack(draws)
                keep = 1 - p.view(-1, 1, 1)
                return x * (u[..., part] < keep) / keep

            return drop

        return of
