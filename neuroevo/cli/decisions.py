"""What `neuroevo decide` says: the rows, the choice and why, and test apart."""

from neuroevo.experiments.decide import Decided


def lines(place: str, found: Decided) -> list[str]:
    """Return the lines about a decision, the table of 80 columns."""
    said = [f"{place}: fitted to {found.given.split}", *found.decision.lines()]
    for name, score in found.test.items():
        kept = "kept" if score.feasible else f"{score.violation:.4f} missed"
        said.append(f"test  {name:<10}  {score.value:.4f}  {kept if found.decision.goal.constraints else ''}".rstrip())
    return [*said, *(f"wrote {line}" for line in found.written)]
