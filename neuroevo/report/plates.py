"""Plots on a page, beside each other, and their files beside the page."""

from collections.abc import Iterable

from neuroevo.report import figures, page
from neuroevo.report.figures import Files, Plot


def plot_grid(given: Iterable[Plot], pictures: Files | None, prefix: str = "", beside: str = "") -> str:
    """Return plots for a page, and what is `beside` them, and write the plots as `pictures` says, if that is given.

    Their names begin with `prefix`; two of one name, as where a column is called like a picture, get a number each.
    """
    drawn: dict[str, tuple[Plot, str]] = {}
    for plot in given:
        name = own = figures.safe(prefix + plot.name)
        while name in drawn:
            name = f"{own}-{len(drawn)}"
        named = plot._replace(name=name)
        drawn[name] = named, figures.draw(named)
    if pictures is not None:
        for each, svg in drawn.values():
            figures.save(each, svg, pictures)
    inside = [page.figure(figures.svg(*each), each[0].title, each[0].caption, each[0].wide) for each in drawn.values()]
    return f'<div class="plots">{"".join(inside)}{beside}</div>' if drawn else ""
