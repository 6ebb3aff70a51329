"""Seconds that something takes, by its parts, and as people read them."""

from collections.abc import Mapping

Seconds = dict[str, float]  # by part


def breakdown(seconds: Mapping[str, float]) -> str:
    """Return seconds in all and by part, as people read them."""
    parts = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items() if value > 0)
    return f"about {duration(sum(seconds.values()))} in all: {parts}"


def duration(seconds: float) -> str:
    """Return seconds, and hours and minutes where they are many."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    long = f" ({minutes // 60} h {minutes % 60} min)" if minutes >= 60 else f" ({minutes} min)" if minutes >= 10 else ""
    return f"{seconds:,.0f} s{long}"
