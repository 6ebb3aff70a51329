"""Arms that are closed forms: a network is made once, and then validated and tested as champions are.

Each is a function of a run that is ready to go: it returns a genome, and what that took. What it looks at beside
validation is train samples, drawn by the run's seed, some thousand of them.
"""

import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from neuroevo.bench.tasks import Task
from neuroevo.config import Config
from neuroevo.data import feature_cache
from neuroevo.data.augment import BATCH
from neuroevo.data.images import Arrays, Files
from neuroevo.engine.cost import Cost
from neuroevo.engine.observer import Observer
from neuroevo.engine.rng import generator
from neuroevo.errors import InputError
from neuroevo.experiments import baseline, blame, build, compose, experiment
from neuroevo.experiments.compose import Run
from neuroevo.experiments.experiment import Ready
from neuroevo.experiments.interruption import Interruption
from neuroevo.experiments.log import watch_prefix
from neuroevo.networks import merging
from neuroevo.networks.backbones import cut_at
from neuroevo.networks.network import Network
from neuroevo.networks.quantisation import correct_biases
from neuroevo.networks.weightfiles import digest
from neuroevo.storage import claims

SAMPLES = 1024  # of the train split, by which covariances and means are taken
ALPHAS = (0.1, 0.5, 0.9, 1.0)  # by which RegMean shrinks what is off the diagonal: validation chooses

Made = tuple[Tensor, Cost]  # a genome [g]


def run(task: Task, observer: Observer, signals: Interruption) -> None:
    """Make an arm's network, validate it in a generation of its own, and test it; one that was cut off begins anew."""
    c, form = task.config, FORMS[task.arm]
    if claims.holds(task.folder):
        shutil.rmtree(task.folder)
    with signals, blame.on_users(c):
        ready = experiment.prepare(c)
        with experiment.start(ready, str(task.folder), "", observer, signals.command) as (folder, log):
            made = Cost()
            if form is keep_start:
                ready, made = correct_backbone(ready)
            composed = compose.compose(*ready, images=watch_prefix(observer, signals), log=log)
            genome, cost = form(composed)
            start = genome[None].to(composed.supervised.start.device)
            composed = replace(composed, supervised=replace(composed.supervised, start=start))
            step = composed.initial()
            champion = step.champion._replace(kind=task.arm, generation=1)
            step = replace(step, champion=champion, cost=step.cost + made + cost)
            experiment.go(composed, step, [], folder=folder, signals=signals, observer=observer, log=log)


def soup(run: Run) -> Made:
    """Return the mean of the networks that the run starts from."""
    return merging.mix([{"genome": genome} for genome in run.supervised.start])["genome"], Cost()


def greedy_soup(run: Run) -> Made:
    """Return the mean of those that make it no worse on validation, asked of the better ones first."""
    of, looked = run.supervised, Cost()

    def score(state: dict[str, Tensor]) -> tuple[float, ...]:
        nonlocal looked
        (found,), cost = of.validate(state["genome"][None])
        looked += cost
        return of.merit(found)

    return merging.mix_greedily([{"genome": genome} for genome in of.start], score)["genome"], looked


def regmean(run: Run) -> Made:
    """Return the merge of each linear map by least squares on its own inputs; validation chooses the shrinkage."""
    of, network = run.supervised, run.network
    rows = draw(run.config, of.splits["train"])
    states, inputs = [], []
    for genome in of.start:
        weights = {name: weight[0] for name, weight in network.decode(genome[None]).items()}
        behind = _Behind(network, weights)
        found = merging.covariances(behind, [of.samples.batch(part)[0] for part in rows.split(BATCH)])
        states.append(weights)
        inputs.append({behind.name(layer): own for layer, own in found.items()})
    cost, found_best = Cost(forward=len(states) * len(rows)), None
    for alpha in ALPHAS:
        merged = merging.merge_by_regression(states, inputs, alpha=alpha)
        genome = network.layout.flatten({name: merged[name][None] for name in network.layout.names})[0]
        (scores,), looked = of.validate(genome[None])
        cost += looked
        if found_best is None or of.merit(scores) > found_best[0]:
            found_best = of.merit(scores), genome
    assert found_best is not None
    return found_best[1], cost


class _Behind(nn.Module):
    """What comes behind the cut, with weights of its own: samples as a run has them to logits."""

    def __init__(self, network: Network, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.cut, self.prefix = network.backbone.cut, network.backbone.head + "."
        self.affine = None if self.cut is None else network.affine
        self.head = network.build_head(network.head_width).to(network.device)
        own = {name: w for name, w in weights.items() if name.startswith(self.prefix)} or {
            name: w[0] for name, w in network.of_head().items()
        }
        self.head.load_state_dict({name.removeprefix(self.prefix): w for name, w in own.items()}, strict=False)
        self.rest = None if self.cut is None else deepcopy(self.cut.rest)
        if self.rest is not None:
            self.rest.load_state_dict({name: w for name, w in weights.items() if name not in own}, strict=False)

    def name(self, layer: str) -> str:
        """Return a layer's name in the whole network."""
        part, _, rest = layer.partition(".")
        if part == "rest":
            return rest
        return f"{self.prefix}{rest}" if rest else self.prefix.removesuffix(".")

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits [B, C] of rows [B, D]."""
        if self.rest is not None and self.cut is not None:
            rows = self.rest(*self.cut.tensors(rows))
            rows = rows if self.affine is None else self.affine(rows)
        logits: Tensor = self.head(rows)
        return logits


def logistic(run: Run) -> Made:
    """Return scikit-learn's logistic regression, C by cross-validation within the train split."""
    why = baseline.misfit(run.supervised)
    if why is not None:
        raise InputError(f"arm logistic: {why}; it is for a linear head on features")
    found = baseline.find(run.supervised, balanced=baseline.balances(run))
    return found.genome, found.cost


def keep_start(run: Run) -> Made:
    """Return the start: what is corrected is the backbone, before anything is computed by it."""
    return run.supervised.start[0], Cost()


def correct_backbone(ready: Ready) -> tuple[Ready, Cost]:
    """Return what a run is of with the biases of its quantised backbone corrected to the float one's means."""
    c, (whole, splits) = ready.config, ready.given
    images = whole.images
    if c.backbone.quantise is None or not isinstance(images, Arrays | Files):
        raise InputError("backbone.quantise: arm bias_correction needs it: nothing is rounded")
    plain = replace(c, backbone=c.backbone.model_copy(update={"quantise": None}))
    exact = build.backbone_for(plain, whole.native(), None)
    rows = draw(c, splits["train"])
    taken = whole.take(rows.numpy()).images
    assert isinstance(taken, Arrays | Files)
    inputs = torch.cat(list(feature_cache.inputs(exact, taken, ready.device)))
    exact.to(ready.device)
    ready.backbone.to(ready.device)
    body = correct_biases(exact.body, ready.backbone.body, inputs)
    sha = digest({name: value.cpu() for name, value in body.state_dict().items()})
    backbone = ready.backbone._replace(body=body, digest=sha, frozen=sha)
    if backbone.trainable:
        body.cpu()
        backbone = cut_at(backbone, backbone.trainable, inputs[:2].cpu())
    return ready._replace(backbone=backbone), Cost(backbone=2 * len(rows))


def draw(c: Config, train: Tensor) -> Tensor:
    """Return rows of the train split, the same for all arms of a seed."""
    order = torch.randperm(len(train), generator=generator(c.seed, "closed form", 0))
    return train[order[:SAMPLES]]


FORMS: dict[str, Callable[[Run], Made]] = {
    "soup": soup,
    "greedy_soup": greedy_soup,
    "regmean": regmean,
    "bias_correction": keep_start,
    "logistic": logistic,
}
