"""Plots on a page, beside each other, and their files beside the page."""

from collections.abc import Iterable

from neuroevo.report import figures, page
from neuroevo.report.figures import Files, Plot


def plot_grid(given: Iterable[Plot], pictures: Files | None, prefix: str = "", beside: str = "") -> str:
    """Return plots for a page, and what is `beside` them, and write the plots as `pictures` says, if that is given.

    Their names begin with `prefix`.
    """
    drawn = [(named := plot._replace(name=prefix + plot.name), figures.draw(named)) for plot in given]
    if pictures is not None:
        for plot, svg in drawn:
            figures.save(plot, svg, pictures)
    inside = [page.figure(figures.svg(*each), each[0].title, each[0].caption, each[0].wide) for each in drawn]
    return f'<div class="plots">{"".join(inside)}{beside}</div>' if drawn else ""
