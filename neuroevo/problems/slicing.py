"""The choice of slices: how many individuals and samples at a time a network's evaluation and training take."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from neuroevo import devices
from neuroevo.engine import execution
from neuroevo.engine.execution import Execution
from neuroevo.errors import InputError, ignore
from neuroevo.learning.refine import slice_size
from neuroevo.networks import deep, heads
from neuroevo.networks.heads import Forward
from neuroevo.networks.network import Network
from neuroevo.networks.onnxfiles import NO_GRADIENTS

FREE_SHARE = 4  # an evaluation may use up to a quarter of the memory that is free at the start


def memory_limit(device: torch.device) -> int:
    """Return a share of the memory that is free on a device, in bytes.

    It is a power of two, so that searches on one machine have one limit.
    """
    return 1 << (devices.available_memory(device) // FREE_SHARE).bit_length() - 1


def choose(
    network: Network,
    width: int,
    *,
    population: int,
    limit: int,
    batch: int = 0,
    slots: int = 0,
    own_batches: bool = False,
    method: str = "auto",
    draw: Callable[[int], Tensor] | None = None,
    graphs: bool = False,
    most: int | None = None,
    note: Callable[[str], None] = ignore,
) -> Execution:
    """Choose how a population of a network is evaluated on samples of `width` numbers, within `limit` bytes.

    It is trained on batches of `batch` samples, 0 for not at all, shared or each individual's own, by an optimizer that
    keeps `slots` numbers for each gene. What evolves behind a cut is tried by a `method` of `deep`, on rows that
    `draw(B)` gives, random ones by default. With `graphs` slices of scoring are launched as CUDA graphs where there is
    a GPU. A slice has at most `most` individuals. InputError (`limit`) where one individual doesn't fit; `note` is told
    what a GPU goes without.
    """
    device, genes, cut = network.device, network.layout.genes, network.backbone.cut
    if cut is not None and cut.foreign:
        if batch:
            raise InputError(NO_GRADIENTS)
        if method == "vmap":
            raise InputError("vmap, but an ONNX file is run for one individual after another", option="plan")
        if graphs and device.type == "cuda":
            note("CUDA graphs: an ONNX file runs on the CPU; runs without")
        method, graphs = "loop", graphs and device.type != "cuda"

    def forward(method: str) -> Forward:
        return network.of_coordinates(network.behind_the_cut(method))

    if cut is None:
        found = _of_heads(network, width, limit=limit, batch=batch, slots=slots, own_batches=own_batches)
    else:
        found = deep.plan(
            forward,
            network.layout.unflatten(network.start()),
            width,
            len(network.classes),
            limit,
            device=device,
            method=method,
            population=population,
            batch=batch,
            slots=slots,
            draw=draw,
        )
    if most is not None:
        found = found._replace(individuals=min(found.individuals, most), trained=min(found.trained, most))
    # A population is kept on the device if it fits there with its children and what refines them.
    fits = 4 * 4 * genes * population < devices.available_memory(device) / 2
    found = found._replace(home=str(device if fits else "cpu"), one_pass=device.type == "cuda", graphs=graphs)
    return on_device(found, device, note)


def on_device(plan: Execution, device: torch.device, note: Callable[[str], None]) -> Execution:
    """Return an execution with what of a GPU's means this device has; `note` is told what it hasn't."""
    if plan.graphs and device.type != "cuda":
        note("CUDA graphs: need a GPU; runs without")
        plan = plan._replace(graphs=False)
    if plan.one_pass:
        lacking = one_pass_lacks(device)
        if lacking is not None:
            note(f"scoring: metrics go over logits several times, for {lacking}")
            plan = plan._replace(one_pass=False)
    return plan


@cache
def one_pass_lacks(device: torch.device) -> str | None:
    """Return why a device can't take hits and losses in one pass over logits, None where it can; it is tried, once."""
    if device.type != "cuda":
        return "that takes a GPU"
    try:
        from neuroevo.problems import kernels
    except ImportError:
        return "Triton isn't installed"
    wrong = kernels.wrong(device)
    return None if wrong is None else f"a kernel for one pass fails here ({wrong})"


def _of_heads(network: Network, width: int, *, limit: int, batch: int, slots: int, own_batches: bool) -> Execution:
    genes, widths = network.layout.genes, heads.widths(network.head) or [len(network.classes)]
    if not network.space.identity:  # and its weights, with what they are made by
        genes += 2 * max(genes, sum(w.numel() for w in network.evolving.values()))
    found = execution.plan(network.method, genes, width, widths, limit=limit, device=network.device)
    if not batch:
        return found
    trained = slice_size(
        genes,
        width,
        widths,
        linear=type(network.head) is nn.Linear and network.space.identity,
        slots=slots,
        own=own_batches,
        size=batch,
        limit=limit,
        device=network.device,
    )
    return found._replace(trained=trained, micro=batch)
