"""The estimate on paper is reckoned as it says, and stands in bench/README.md as it is printed."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def paper() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_paper", BENCH / "gpu_paper.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_the_table_as_it_is_printed() -> None:
    done = subprocess.run([sys.executable, str(BENCH / "gpu_paper.py")], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 8
    assert done.stdout in (BENCH / "README.md").read_text()


def test_a_kernel_takes_the_most_of_its_bytes_its_flops_and_its_launch(paper: Any) -> None:
    gpu, kernel = paper.H100, paper.Kernel
    assert paper.seconds([kernel("x", 3.35e9)], gpu, "float32") == pytest.approx(1e-3)
    assert paper.seconds([kernel("x", 3.35e9, flops=120e9)], gpu, "float32") == pytest.approx(2e-3)
    assert paper.seconds([kernel("x", cached=55e9)], gpu, "float32") == pytest.approx(10e-3)
    assert paper.seconds([kernel("x"), kernel("y", 100)], gpu, "float32") == pytest.approx(10e-6)


def test_a_product_is_its_flops_and_logits_are_written_once(paper: Any) -> None:
    work = paper.WORKS[0]
    product, biases = paper.written(work, "float32")
    assert product.flops == 2 * 2560 * 1280 * 10_000
    assert product.bytes == 4 * (10_000 * 1280 + 2560 * 1280 + 2560 * 10_000)
    assert biases.bytes == 8 * 2560 * 10_000


def test_one_pass_over_logits_is_never_slower_than_six_nor_is_the_product_alone(paper: Any) -> None:
    for work in paper.WORKS:
        for precision in paper.SIZES:
            found = paper.estimate(work, paper.H100, precision)
            alone = paper.seconds([paper.written(work, precision)[0]], paper.H100, precision)
            assert alone < found["one pass"] < found["operations"]
