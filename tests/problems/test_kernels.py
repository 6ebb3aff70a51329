"""The kernel gives what PyTorch's operations give; on the CPU by Triton's interpreter (conftest.py asks for it)."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from neuroevo.engine.execution import Execution
from neuroevo.problems import slicing
from neuroevo.problems.metric import Additive
from neuroevo.problems.metrics import accuracy, cross_entropy, weighted_cross_entropy

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton isn't installed: its kernels aren't tested", allow_module_level=True)

from neuroevo.problems import kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, of which the interpreter is made
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def some(n: int, samples: int, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(n + samples + classes)
    logits = torch.randn(n, classes, samples, generator=source).mul(3).to(dtype)
    return logits.mT.to(DEVICE), torch.randint(classes, (samples,), generator=source).to(DEVICE)


def expected(logits: Tensor, targets: Tensor) -> Tensor:
    losses = functional.cross_entropy(logits.mT.float(), targets.expand(len(logits), -1), reduction="none")
    return torch.stack([(logits.argmax(2) == targets).sum(1), -losses.double().sum(1), logits.double().sum((1, 2))], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 50, 10), (2, 1024, 3), (2, 1025, 3), (2, 2100, 17), (5, 3, 1000)])
def test_sums_are_those_of_operations(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    logits, targets = some(*shape, dtype=dtype)
    found, right = kernels.sums(logits, targets), expected(logits, targets)
    assert found.dtype == torch.float64
    assert torch.equal(found[:, 0], right[:, 0])
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-4)


def test_logits_may_lie_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = some(3, 50, 10)
    right = kernels.sums(logits, targets)
    assert torch.equal(kernels.sums(logits.contiguous(), targets), right)
    wide = torch.zeros(3, 100, 10, device=DEVICE)
    wide[:, ::2] = logits
    assert torch.equal(kernels.sums(wide[:, ::2], targets), right)


def test_the_first_of_the_highest_logits_is_predicted() -> None:
    logits = torch.tensor([[[1.0, 2, 2], [5, 5, 5], [0, 0, 1]]], device=DEVICE)
    for targets, hits in (((1, 0, 2), 3), ((2, 1, 2), 1), ((2, 2, 0), 0)):
        assert kernels.sums(logits, torch.tensor(targets, device=DEVICE))[0, 0] == hits


def test_large_logits_of_either_sign_have_finite_losses() -> None:
    logits = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]], [[-3e38, 3e38]]], device=DEVICE)
    found = kernels.sums(logits, torch.tensor([0], device=DEVICE))
    assert found[:2, 1].tolist() == [0, -2e4]
    assert found[:2, 0].tolist() == [1, 0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [(0, 0), (49, 9), (20, 3)])
def test_a_logit_that_is_not_finite_is_told_by_their_sum_and_is_nobody_elses(
    bad: float, place: tuple[int, int]
) -> None:
    logits, targets = some(3, 50, 10)
    right = kernels.sums(logits, targets)
    logits[1, place[0], place[1]] = bad
    found = kernels.sums(logits, targets)
    assert found[:, 2].isfinite().tolist() == [True, False, True]
    assert torch.equal(found[[0, 2]], right[[0, 2]])


def test_the_same_logits_have_the_same_sums_whoever_is_beside_them() -> None:
    logits, targets = some(6, 1500, 10)
    found = kernels.sums(logits, targets)
    assert torch.equal(kernels.sums(logits[2:4], targets), found[2:4])


def test_metrics_are_finished_from_these_sums() -> None:
    logits, targets = some(3, 50, 10)
    sums = kernels.sums(logits, targets)
    for metric in (accuracy(), cross_entropy()):
        assert isinstance(metric, Additive)
        own = sums[:, kernels.COLUMNS.index(metric.of_sample)]
        found = metric.finish(torch.stack([own, torch.full_like(own, 50)], 1))
        torch.testing.assert_close(found, metric.finish(metric.statistics(logits, targets)), rtol=1e-5, atol=0)
    weighted = weighted_cross_entropy(torch.ones(10))
    assert isinstance(weighted, Additive)
    assert not weighted.of_sample


def test_the_kernel_is_tried_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.wrong(DEVICE) is None
    right = kernels.sums
    monkeypatch.setattr(kernels, "sums", lambda logits, targets: right(logits, targets) + 1)
    assert kernels.wrong(DEVICE) == "its sums are others"

    def fails(logits: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("no such\narchitecture")

    monkeypatch.setattr(kernels, "sums", fails)
    assert kernels.wrong(DEVICE) == "ValueError: no such architecture"


def test_a_plan_goes_without_what_its_device_lacks_and_says_so() -> None:
    notes: list[str] = []
    plan = Execution("gemm", 10, 1, 1, 10**6, 1, one_pass=True, graphs=True)
    cpu = slicing.on_device(plan, torch.device("cpu"), notes.append)
    assert cpu == plan._replace(one_pass=False, graphs=False)
    assert notes[0] == "CUDA graphs: need a GPU; runs without"
    assert slicing.on_device(cpu, torch.device("cpu"), pytest.fail) == cpu


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from neuroevo.problems import kernels

integers = ["samples", "classes", "of_individual", "of_sample", "of_class"]
for kind, ones in (("fp32", ["of_sample"]), ("bf16", ["of_sample"]), ("fp16", ["samples", "of_class"])):
    signature = {"logits": f"*{kind}", "targets": "*i64", "out": "*fp64", **dict.fromkeys(integers, "i32")}
    fixed = {"size": kernels.BLOCK, **dict.fromkeys(ones, 1)}  # as a launch does with what is 1
    signature |= dict.fromkeys(fixed, "constexpr")
    made = triton.compile(ASTSource(kernels.sums_kernel, signature, fixed), GPUTarget("cuda", 90, 32))
    print(kind, len(made.asm["cubin"]) > 0)
"""


def test_the_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    """No GPU is needed for that: the interpreter takes what the compiler refuses."""
    if sys.platform != "linux":
        pytest.skip("Triton's compiler comes with its Linux packages alone")
    own = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=own, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["fp32", "True", "bf16", "True", "fp16", "True"], done.stderr
