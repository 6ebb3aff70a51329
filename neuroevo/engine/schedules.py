"""Factors over a run's progress, for learning rates and sigma."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "exponential", "step", "warmup_cosine", "one_cycle"]
WARMUP = 0.05  # share of the run over which `warmup_cosine` rises
PEAK = 0.3  # where `one_cycle` is highest
LOW = 0.1  # where a rise begins: a first generation at 0 would be wasted


def factor(schedule: Schedule, progress: float, final: float) -> float:
    """Return the factor at `progress` in [0, 1]; each schedule but `constant` ends at `final`.

    `step` falls at a half and at three quarters of the run; `warmup_cosine` rises over the first twentieth (Loshchilov
    and Hutter 2017); `one_cycle` rises over three tenths and falls again (Smith and Topin 2018).
    """

    def cosine(p: float, start: float, end: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * p)) / 2

    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 + (final - 1) * progress
        case "cosine":
            return cosine(progress, 1, final)
        case "exponential":
            return float(final**progress)
        case "step":
            return 1.0 if progress < 0.5 else math.sqrt(final) if progress < 0.75 else final
        case "warmup_cosine":
            if progress < WARMUP:
                return LOW + (1 - LOW) * progress / WARMUP
            return cosine((progress - WARMUP) / (1 - WARMUP), 1, final)
        case "one_cycle":
            if progress < PEAK:
                return cosine(progress / PEAK, LOW, 1)
            return cosine((progress - PEAK) / (1 - PEAK), 1, final)
