"""Pictures of a champion's predictions."""

from collections.abc import Mapping, Sequence

from neuroevo.report.figures import INK, Plot, canvas, style
from neuroevo.report.predictions import BINS, Bin, calibration_error


def reliability(name: str, splits: Mapping[str, Sequence[Bin]]) -> Plot:
    """Draw the accuracy of predictions against their probability, a line a split {name: bins}."""
    with canvas("probability of the predicted class", "share that is right", 3.6) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=0.8, linestyle=":", label="calibrated")
        for i, (split, found) in enumerate(splits.items()):
            x, y = [b.probability for b in found], [b.accuracy for b in found]
            ends = [[b.accuracy - b.least for b in found], [b.most - b.accuracy for b in found]]
            label = f"{split}: ECE {calibration_error(found):.3f}"
            axes.errorbar(x, y, ends, marker="o", markersize=3, elinewidth=0.8, label=label, **style(i))
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        figure.legend(loc="outside upper left", ncols=2)
    caption = (
        f"Predictions in {BINS} bins of equal width by probability, and the share of each that is right, with 95 % "
        "intervals (Wilson). ECE, the expected calibration error: the mean distance from the dotted line, bins by "
        "their samples (Guo et al. 2017)."
    )
    rows = [[split, *b] for split, found in splits.items() for b in found]
    return Plot(name, "Reliability of probabilities", caption, figure, ["split", *Bin._fields], rows)
