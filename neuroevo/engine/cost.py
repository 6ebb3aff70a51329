"""What a run has spent, as counts of samples, and when it has spent enough."""

from dataclasses import dataclass, fields
from typing import Self


@dataclass(frozen=True)
class Cost:
    """Samples pushed through the network; costs add. The unit of `forward` is one sample for one individual."""

    forward: int = 0  # through the trainable part, for fitness or the forward half of a gradient step
    backward: int = 0  # through the trainable part, backwards
    validation: int = 0  # through the trainable part, for validation; counted apart
    backbone: int = 0  # images through the frozen part

    @property
    def samples(self) -> int:
        """The unit of equal budgets: forward + 2 x backward."""
        return self.forward + 2 * self.backward

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def record(self) -> dict[str, int]:
        """Return the counts under the names that files give them."""
        return {f"{f.name}_samples": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_record(cls, record: dict[str, int]) -> Self:
        """Read what `record` returned."""
        return cls(**{f.name: int(record[f"{f.name}_samples"]) for f in fields(cls)})


@dataclass(frozen=True)
class Budget:
    """Limits of a run; the first one reached stops it. None is no limit."""

    generations: int | None = None
    samples: int | None = None
    forward_samples: int | None = None
    seconds: float | None = None
    target: float | None = None  # of the validation metric, as reported

    @property
    def counts(self) -> bool:
        """Whether samples are limited."""
        return self.samples is not None or self.forward_samples is not None

    def allows(self, cost: Cost) -> bool:
        """Tell whether a cost stays within the sample limits."""
        return (self.samples is None or cost.samples <= self.samples) and (
            self.forward_samples is None or cost.forward <= self.forward_samples
        )

    def progress(self, generation: int, cost: Cost) -> float:
        """Return the share in [0, 1] of the budget in generations or samples that is spent; 0 where neither is set."""
        pairs = ((self.generations, generation), (self.samples, cost.samples), (self.forward_samples, cost.forward))
        return min(1.0, max((spent / limit for limit, spent in pairs if limit), default=0.0))

    def stop_reason(self, generation: int, cost: Cost, seconds: float, least: Cost) -> str | None:
        """Return the name of the limit reached, or None; samples are spent when a generation of `least` isn't left."""
        after = cost + least
        spent = {
            "generations": (generation, self.generations),
            "samples": (after.samples - 1, self.samples),
            "forward_samples": (after.forward - 1, self.forward_samples),
            "seconds": (seconds, self.seconds),
        }
        return next((name for name, (value, limit) in spent.items() if limit is not None and value >= limit), None)
