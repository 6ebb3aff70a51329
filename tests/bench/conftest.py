"""A bench, run in this process: its figures without another import of torch."""

import json
import logging
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def run_bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Return what runs `python bench/NAME --small OPTIONS` on one thread, and returns the figures that it writes."""

    def run(name: str, *options: str) -> Any:
        out, threads = tmp_path / "figures.json", torch.get_num_threads()
        words = [str(BENCH / name), "--small", "--threads", "1", "--json", str(out), *options]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.syspath_prepend(str(BENCH))
        try:
            runpy.run_path(str(BENCH / name), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
            logging.disable(logging.NOTSET)
        return json.loads(out.read_text())

    return run
