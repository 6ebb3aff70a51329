"""A thread that writes the checkpoints of one run while its next generation is computed."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from neuroevo.engine.loop import Step
from neuroevo.storage import generations
from neuroevo.storage.checkpoint import History, write
from neuroevo.storage.files import flush


class Writer:
    """Writes checkpoints of one run in the background, one at a time, and keeps the newest few and the champion's."""

    def __init__(
        self,
        folder: Path,
        attributes: dict[str, Any],
        beside: dict[str, Tensor],
        keep: int,
        *,
        lines: Sequence[Path] = (),
    ) -> None:
        self.folder, self.attributes, self.beside, self.keep = folder, attributes, beside, keep
        self.lines = lines  # files to which generations add lines: on disk before a checkpoint is, which may lack them
        generations.sweep(folder)
        self.pool = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def submit(self, step: Step, history: History) -> None:
        """Write a checkpoint of a step, after the one before it is on disk; an error of that one is raised here."""
        self.wait()
        self.pending = self.pool.submit(self._write, step, list(history))

    def wait(self) -> None:
        """Wait until all is on disk; raise the error of a checkpoint that failed."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self.pool.shutdown()

    def _write(self, step: Step, history: History) -> None:
        flush(self.lines)
        # A generation's tensors are replaced and never changed in place, so they can be read while the next one runs.
        write(self.folder / generations.name(step.generation), self.attributes, self.beside, step, history)
        self.prune(step)

    def prune(self, step: Step) -> None:
        """Remove all but the newest few checkpoints and the champion's, while none is being written."""
        for path in generations.paths(self.folder)[self.keep :]:
            if path.name != generations.name(step.champion.generation):
                with suppress(OSError):  # a folder of that name, or no leave to
                    path.unlink()
