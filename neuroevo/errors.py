"""The two ways a run can end early that are nobody's bug."""


class InputError(Exception):
    """Bad usage, config, data or file: one line for the user, exit status 2."""


class Interrupted(Exception):
    """A signal asked the run to stop; `status` is the exit status (130 for SIGINT, 143 for SIGTERM)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"interrupted (exit status {status})")
        self.status = status


class RunError(Exception):
    """A run that failed through no bug of ours, such as a full disk: one line for the user, exit status 1."""


def printable(text: str) -> str:
    """Return a text with control characters and what is no Unicode spelled out, for a terminal, a log or a page."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
