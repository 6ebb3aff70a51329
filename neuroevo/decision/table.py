"""A decision's rows as a table of 80 columns."""

from neuroevo.decision.tune import Decision


def lines(of: Decision) -> list[str]:
    """Return a decision's rows as lines, the one that is chosen marked, with what was asked and why it was chosen."""
    bounds = [f"{each.of} {each.bounds}" for each in of.goal.constraints]
    head = ["", "row", "out of fold", "fit - held out", *(["violation"] if bounds else []), ""]
    body = []
    for row in of.rows:
        value = f"{of.reported(row.value):.4f} +- {row.se:.4f}"
        kept = ["kept" if row.feasible else f"{row.violation:.4f}"] if bounds else []
        body.append([">" if row.name == of.chosen else "", row.name, value, f"{row.gap:+.4f}", *kept, row.fit.about])
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *body]]
    verdict = "do nothing: argmax" if of.nothing else of.chosen
    return [
        f"{of.metric} of {of.samples:,} samples, {of.folds} folds",
        *(f"subject to {bound}" for bound in bounds),
        *(line.rstrip() for line in shown),
        f"chosen: {verdict} ({of.why})",
        *(f"note: {line}" for line in of.notes),
    ]
