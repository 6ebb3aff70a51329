"""What was exported beside a run's champion, as a table."""

from typing import Any

from neuroevo.report import page
from neuroevo.report.figures import words


def table(result: dict[str, Any], champion: dict[str, Any], metric: str) -> list[str]:
    """Return a table of what was exported beside the champion, the champion first; [] where nothing was."""
    found = result.get("selections", {})
    if not found:
        return []
    others = [name for name in ("cross_entropy",) if name != metric]
    header = ["network", f"test {words(metric)}", "95 %", f"validation {words(metric)}"]
    header += [f"{split} {words(name)}" for name in others for split in ("test", "validation")]
    rows = []
    for name, entry in {"champion": champion, **found}.items():
        test, validation = entry.get("test", {}), entry["validation"]
        interval = test.get("interval", {}).get(metric)
        row: list[Any] = [name, test.get(metric), page.number(interval), validation.get(metric)]
        row += [split.get(other) for other in others for split in (test, validation)]
        rows.append(row)
    looks = result.get("test_scored", 0)
    caption = (
        "All were chosen by their validation figures, which are too good for that reason. This run's networks were "
        f"scored on test {looks} times in all: the best of them there is chosen on test."
    )
    divided = {name: entry.get("temperature") for name, entry in found.items()}
    about = [
        (name, entry["about"] + ("" if divided[name] is None else f"; logits divided by {page.number(divided[name])}"))
        for name, entry in found.items()
    ]
    return [page.grid(header, rows, caption), page.name_table(about)]
