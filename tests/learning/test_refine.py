import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroevo.engine.cost import Cost
from neuroevo.engine.genome import BRED, KEPT, NEW, Layout, Population, roles
from neuroevo.engine.rng import Context
from neuroevo.errors import InputError
from neuroevo.learning.draws import Draws
from neuroevo.learning.optimizers import OPTIMIZERS
from neuroevo.learning.refine import CPU_SLICE, TAU, refiner, slice_size
from neuroevo.learning.task import Settings, Task
from neuroevo.networks import heads

D, C, N = 9, 4, 5


class Source:
    """Features in memory; it counts the samples that are asked for."""

    def __init__(self, n: int = 90, device: torch.device | str = "cpu") -> None:
        g = torch.Generator().manual_seed(3)
        self.x = torch.randn(n, D, generator=g).to(device)
        self.of_rows = torch.randint(C, (n,), generator=g).to(device)
        self.seen = 0

    @property
    def labels(self) -> Tensor:
        return self.of_rows

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(index)
        index = index.to(self.x.device)
        return self.x[index], self.of_rows[index]


def settings(**changes: Any) -> Settings:
    given: dict[str, Any] = {
        "steps": 4, "batch_size": 16, "lr": 0.1, "weight_decay": 0.0, "label_smoothing": 0.0, "dropout": None,
        "mixup": 0.0, "decay_to_start": 0.0, "schedule": "constant", "final": 0.01, "who": "all", "share": 1.0,
        "batches": "shared", "optimizer_state": "fresh", "balanced": False, "class_weights": False,
        "logit_adjustment": 0.0,
    }  # fmt: skip
    return Settings(**(given | changes))


def linear() -> nn.Module:
    return nn.Linear(D, C)


def mlp() -> nn.Module:
    return heads.mlp(D, C, hidden=[7], norm="layer", activation="tanh")


def unfit_for_gemm() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, C))


def task(make: Callable[[], nn.Module], source: Source | None = None, individuals: int = N, **changes: Any) -> Task:
    head = make()
    layout = Layout.of({f"fc.{name}": p for name, p in head.named_parameters()})
    source = source or Source()
    one = "fc" if isinstance(head, nn.Linear) else None
    forward = heads.population_forward(head, "fc")[1]
    start = torch.zeros(layout.genes, device=source.x.device)
    given = Task(layout, forward, one, source, torch.arange(80), C, individuals, 1000, 2**20, start, start.device)
    return Task(**(given.__dict__ | changes))


CPU = torch.device("cpu")


def population(t: Task, n: int = N, traits: dict[str, Tensor] | None = None) -> Population:
    device = t.source.labels.device
    genomes = torch.randn(n, t.layout.genes, generator=torch.Generator().manual_seed(0)).to(device) / 3
    return Population(
        genomes, traits or {}, torch.zeros(n, 2, dtype=torch.int64, device=device), roles({BRED: n}, device)
    )


def context(generation: int = 1, progress: float = 0.0, device: torch.device | str = "cpu") -> Context:
    return Context(0, generation, progress, torch.device(device))


def alone(
    make: Callable[[], nn.Module], t: Task, genome: Tensor, optimizer: Callable[[Any], torch.optim.Optimizer],
    batches: list[Tensor], loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """Train one network with torch's own optimizer, as anybody would."""
    head = make().to(genome.device)
    head.load_state_dict({k.removeprefix("fc."): v[0] for k, v in t.layout.unflatten(genome[None]).items()})
    o = optimizer(head.parameters())
    for index in batches:
        x, y = t.source.batch(index)
        o.zero_grad()
        loss(head(x), y).backward()
        o.step()
    return t.layout.flatten({f"fc.{k}": v.detach()[None] for k, v in head.named_parameters()})[0]


CASES: list[tuple[str, dict[str, Any], Callable[[Any], torch.optim.Optimizer], dict[str, Any]]] = [
    ("sgd", {"momentum": 0.0}, lambda p: torch.optim.SGD(p, 0.1), {}),
    ("sgd", {"momentum": 0.0}, lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.05), {"weight_decay": 0.05}),
    ("sgd", {}, lambda p: torch.optim.SGD(p, 0.1, 0.9), {}),
    ("sgd", {}, lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.05), {"weight_decay": 0.05}),
    ("sgd", {"momentum": 0.7, "nesterov": True}, lambda p: torch.optim.SGD(p, 0.1, 0.7, 0, 0.05, nesterov=True),
     {"weight_decay": 0.05}),
    ("adam", {}, lambda p: torch.optim.Adam(p, 0.01), {"lr": 0.01}),
    ("adam", {"beta1": 0.8}, lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.999), weight_decay=0.1),
     {"lr": 0.01, "weight_decay": 0.1}),
    ("adamw", {"eps": 1e-4}, lambda p: torch.optim.AdamW(p, 0.01, eps=1e-4, weight_decay=0.1),
     {"lr": 0.01, "weight_decay": 0.1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "theirs", "given"), CASES, ids=lambda v: str(v) if isinstance(v, str) else ""
)
@pytest.mark.parametrize("make", [linear, mlp, unfit_for_gemm])
@pytest.mark.parametrize("batches", ["shared", "own"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_steps_are_those_of_torchs_optimizer_on_each_network_alone(
    name: str, options: dict[str, Any], theirs: Callable[[Any], torch.optim.Optimizer], given: dict[str, Any],
    make: Callable[[], nn.Module], batches: str, smoothing: float, device: torch.device,
) -> None:  # fmt: skip
    t = task(make, Source(device=device))
    s = settings(batches=batches, label_smoothing=smoothing, **given)
    p = population(t)
    refine, *_ = refiner(t, OPTIMIZERS[name](**options), s)
    found, _ = refine(p, context(device=device))
    rows = Draws(t, s, 16, N, context(device=device)).rows
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    for i in range(N):
        mine = list(rows[i if batches == "own" else 0])
        expected = alone(make, t, p.genomes[i], theirs, mine, loss)
        torch.testing.assert_close(found.genomes[i], expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("make", [linear, mlp])
@pytest.mark.parametrize("batches", ["shared", "own"])
def test_slices_of_individuals_change_nothing_but_rounding(make: Callable[[], nn.Module], batches: str) -> None:
    t = task(make)
    s = settings(batches=batches, mixup=0.4)
    whole = refiner(t, OPTIMIZERS["sgd"](), s)[0](population(t), context())[0].genomes
    small = task(make, individuals=2, micro=5)
    sliced = refiner(small, OPTIMIZERS["sgd"](), s)[0](population(t), context())[0].genomes
    torch.testing.assert_close(whole, sliced, rtol=1e-5, atol=1e-6)


def test_dropout_masks_do_not_depend_on_slices_and_are_each_individuals_own() -> None:
    def make() -> nn.Module:
        return heads.mlp(D, C, hidden=[30], dropout=0.5)

    t, small = task(make), task(make, individuals=2, micro=5)
    s = settings(dropout=0.5)
    whole = refiner(t, OPTIMIZERS["sgd"](), s)[0](population(t), context())[0].genomes
    sliced = refiner(small, OPTIMIZERS["sgd"](), s)[0](population(t), context())[0].genomes
    torch.testing.assert_close(whole, sliced, rtol=1e-5, atol=1e-6)
    twins = population(t)._replace(genomes=population(t).genomes[:1].repeat(2, 1), roles=roles({BRED: 2}, CPU))
    a, b = refiner(t, OPTIMIZERS["sgd"](), s)[0](twins, context())[0].genomes
    assert not torch.equal(a, b)
    a, b = refiner(t, OPTIMIZERS["sgd"](), settings(dropout=0.0))[0](twins, context())[0].genomes
    torch.testing.assert_close(a, b)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    drop = Draws(task(mlp, train=torch.arange(80).repeat(2)), settings(), 100, 2, context()).dropout(
        torch.tensor([0.25, 0.0]), torch.arange(2), 0
    )(slice(None))
    assert drop is not None
    out = drop(torch.ones(2, 200, 100), 0.9)
    assert float((out[0] == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(out[0].mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(out[1], torch.ones(200, 100))


def test_cost_is_what_really_went_through() -> None:
    source = Source()
    t = task(linear, source)
    s = settings(batches="own", steps=3, batch_size=16)
    refine, learning, _ = refiner(t, OPTIMIZERS["sgd"](), s)
    _, cost = refine(population(t), context())
    assert cost == learning(population(t), 3) == Cost(forward=N * 3 * 16, backward=N * 3 * 16)
    assert source.seen == cost.forward
    _, cost = refiner(t, OPTIMIZERS["sgd"](), settings(batch_size=1000))[0](population(t), context())
    assert cost.forward == N * 4 * 80  # all of the train split once, and counted as such


def test_no_steps_change_nothing() -> None:
    t = task(linear)
    p = population(t)
    found, cost = refiner(t, OPTIMIZERS["adam"](), settings(steps=0))[0](p, context())
    assert torch.equal(found.genomes, p.genomes)
    assert found.traits == {}
    assert cost == Cost()


@pytest.mark.parametrize(("who", "expected"), [("all", [0, 1, 2, 3, 4]), ("children", [0, 1, 4]), ("elites", [2, 3])])
def test_who_is_trained(who: str, expected: list[int]) -> None:
    t = task(linear)
    p = population(t)._replace(roles=roles({BRED: 2, KEPT: 2, NEW: 1}, CPU))
    found, cost = refiner(t, OPTIMIZERS["sgd"](), settings(who=who))[0](p, context())
    changed = (found.genomes != p.genomes).any(1).nonzero().squeeze(1)
    assert changed.tolist() == expected
    assert cost.forward == len(expected) * 4 * 16


def test_a_share_is_drawn_anew_each_generation() -> None:
    t = task(linear)
    refine, *_ = refiner(t, OPTIMIZERS["sgd"](), settings(share=0.4))
    p = population(t, 20)
    changed = [(refine(p, context(g))[0].genomes != p.genomes).any(1) for g in (1, 2)]
    assert [int(c.sum()) for c in changed] == [8, 8]
    assert not torch.equal(changed[0], changed[1])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_an_inherited_optimizer_state_goes_on_where_it_was(name: str) -> None:
    t = task(linear, train=torch.arange(16))  # one batch is all there is, so draws don't matter
    p = population(t)

    def refine(steps: int, state: str, p: Population) -> Population:
        s = settings(steps=steps, optimizer_state=state, lr=0.05)
        return refiner(t, OPTIMIZERS[name](), s)[0](p, context())[0]

    twice = refine(3, "inherit", refine(3, "inherit", p))
    torch.testing.assert_close(twice.genomes, refine(6, "inherit", p).genomes, rtol=1e-4, atol=1e-5)
    assert twice.traits["steps"].tolist() == [6.0] * N
    fresh = refine(3, "fresh", refine(3, "fresh", p))
    assert not torch.allclose(fresh.genomes, twice.genomes, rtol=1e-3)
    assert fresh.traits == {}


def test_ranges_give_each_individual_its_own_which_the_bred_inherit_mutated() -> None:
    t = task(linear)
    s = settings(lr=(1e-3, 1.0), label_smoothing=(0.0, 0.3), weight_decay=(1e-5, 1e-2))
    refine, *_ = refiner(t, OPTIMIZERS["sgd"](momentum=(0.5, 0.99)), s)
    p = population(t, 400)
    first = refine(p, context())[0]
    assert set(first.traits) == {"lr", "label_smoothing", "weight_decay", "momentum"}
    assert 1e-3 <= float(first.traits["lr"].min()) < 3e-3 < 0.3 < float(first.traits["lr"].max()) <= 1
    assert float(first.traits["lr"].log10().mean()) == pytest.approx(-1.5, abs=0.15)
    now = roles({BRED: 1, KEPT: 1}, CPU).repeat(200)
    second = refine(p._replace(traits=first.traits, roles=now), context(2))[0]
    assert torch.equal(second.traits["lr"][1::2], first.traits["lr"][1::2])
    moved = (second.traits["lr"] / first.traits["lr"]).log()[::2]
    assert float(moved.std()) == pytest.approx(TAU, rel=0.25)
    assert float(second.traits["lr"].max()) <= 1


def test_an_individuals_own_rate_is_what_it_is_trained_with() -> None:
    t = task(linear)
    own = torch.tensor([0.01, 0.02, 0.05, 0.1, 0.2])
    p = population(t, traits={"lr": own})
    elites = p._replace(roles=roles({KEPT: N}, CPU))
    found = refiner(t, OPTIMIZERS["sgd"](), settings(lr=(1e-3, 1.0)))[0](elites, context())[0]
    for i, lr in enumerate(own.tolist()):
        single = refiner(t, OPTIMIZERS["sgd"](), settings(lr=lr))[0](p._replace(traits={}), context())[0]
        torch.testing.assert_close(found.genomes[i], single.genomes[i])


def test_a_schedule_scales_the_learning_rate() -> None:
    t = task(linear)
    late = refiner(t, OPTIMIZERS["sgd"](), settings(schedule="linear", final=0.5))[0](
        population(t), context(progress=1.0)
    )[0]
    half = refiner(t, OPTIMIZERS["sgd"](), settings(lr=0.05))[0](population(t), context())[0]
    torch.testing.assert_close(late.genomes, half.genomes)


def test_balanced_batches_have_as_many_of_each_class() -> None:
    source = Source(4000)
    source.of_rows = (torch.arange(4000) % 100 == 0).long() * 3  # one in a hundred
    t = task(linear, source, train=torch.arange(4000))
    rows = Draws(t, settings(balanced=True, steps=50), 64, 1, context()).rows
    share = float((source.labels[rows] == 3).double().mean())
    assert share == pytest.approx(0.5, abs=0.03)
    plain = Draws(t, settings(steps=50), 64, 1, context()).rows
    assert float((source.labels[plain] == 3).double().mean()) < 0.03
    assert len(plain.unique()) == 3200  # no sample twice before all were there once


@pytest.mark.parametrize("make", [linear, mlp])
def test_class_weights_are_those_of_torchs_loss(make: Callable[[], nn.Module]) -> None:
    t = task(make)
    s = settings(class_weights=True)
    p = population(t)
    found = refiner(t, OPTIMIZERS["sgd"](), s)[0](p, context())[0]
    counts = torch.bincount(t.source.labels[t.train], minlength=C)
    loss = nn.CrossEntropyLoss(weight=len(t.train) / (C * counts))
    rows = Draws(t, s, 16, N, context()).rows[0]
    expected = alone(make, t, p.genomes[1], lambda q: torch.optim.SGD(q, 0.1, 0.9), list(rows), loss)
    torch.testing.assert_close(found.genomes[1], expected, rtol=1e-4, atol=1e-5)


def test_logit_adjustment_adds_the_log_prior_while_training() -> None:
    t = task(linear)
    p, s = population(t), settings(logit_adjustment=1.5)
    found = refiner(t, OPTIMIZERS["sgd"](), s)[0](p, context())[0]
    prior = torch.bincount(t.source.labels[t.train], minlength=C) / len(t.train)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits + 1.5 * prior.log(), y)

    rows = Draws(t, s, 16, N, context()).rows[0]
    expected = alone(linear, t, p.genomes[0], lambda q: torch.optim.SGD(q, 0.1, 0.9), list(rows), loss)
    torch.testing.assert_close(found.genomes[0], expected, rtol=1e-4, atol=1e-5)


def test_mixup_trains_on_mixtures_of_samples_and_of_their_targets() -> None:
    t = task(linear)
    p, s = population(t), settings(mixup=0.5, steps=1)
    draws = Draws(t, s, 16, N, context())
    ((x, y, partners, share),) = draws.batches(t, torch.arange(N))
    assert 0 < share < 1
    clean, labels = t.source.batch(draws.rows[0, 0])
    torch.testing.assert_close(x, share * clean + (1 - share) * clean.flip(0))
    assert partners is not None
    assert torch.equal(partners, labels.flip(0))
    found = refiner(t, OPTIMIZERS["sgd"](), s)[0](p, context())[0]
    w, b = (v[0].clone().requires_grad_() for v in t.layout.unflatten(p.genomes[:1]).values())
    logits = x @ w.T + b
    ce = nn.functional.cross_entropy
    (share * ce(logits, y) + (1 - share) * ce(logits, partners)).backward()
    assert w.grad is not None
    torch.testing.assert_close(t.layout.unflatten(found.genomes)["fc.weight"][0], (w - 0.1 * w.grad).detach())


def test_decay_to_start_pulls_towards_it() -> None:
    t = task(linear)
    t = Task(**(t.__dict__ | {"start": torch.full((t.layout.genes,), 5.0)}))
    p = population(t)
    near = refiner(t, OPTIMIZERS["sgd"](), settings(decay_to_start=1.0))[0](p, context())[0].genomes
    free = refiner(t, OPTIMIZERS["sgd"](), settings())[0](p, context())[0].genomes
    assert float((near - 5).norm()) < float((free - 5).norm())
    strong = refiner(t, OPTIMIZERS["sgd"](momentum=0.0), settings(decay_to_start=10.0, steps=1))[0](p, context())
    drawn = refiner(t, OPTIMIZERS["sgd"](momentum=0.0), settings(steps=1))[0](p, context())
    torch.testing.assert_close(strong[0].genomes - drawn[0].genomes, -0.1 * 10 * (p.genomes - 5))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("make", [linear, mlp, unfit_for_gemm])
def test_every_optimizer_lowers_the_loss_of_every_individual(name: str, make: Callable[[], nn.Module]) -> None:
    t = task(make, train=torch.arange(16))
    p = population(t)
    found = refiner(t, OPTIMIZERS[name](), settings(steps=30, lr=0.02))[0](p, context())[0]

    def losses(genomes: Tensor) -> Tensor:
        x, y = t.source.batch(torch.arange(16))
        logits = t.forward(t.layout.unflatten(genomes), x)
        return nn.functional.cross_entropy(logits.mT, y.expand(N, -1), reduction="none").mean(1)

    assert (losses(found.genomes) < losses(p.genomes)).all()


def test_a_limit_too_small_to_train_one_individual_is_refused() -> None:
    with pytest.raises(InputError, match=r"^limit: 100 bytes is too little to train one individual"):
        slices(limit=100, slots=2)


def slices(limit: int = 2**20, slots: int = 0, own: bool = False, device: str = "cpu") -> int:
    return slice_size(
        1000, 100, [10], linear=True, slots=slots, own=own, size=16, limit=limit, device=torch.device(device)
    )


def test_slices_are_smaller_where_there_is_more_to_keep() -> None:
    assert slices(2**20) > slices(2**19) > slices(2**18) >= 1
    assert slices() > slices(slots=1) > slices(slots=2)
    assert slices() > slices(own=True)
    assert slices(2**40) == CPU_SLICE // 4 // 1000 < slices(2**40, device="cuda")  # in cache on a CPU


def test_the_same_generation_draws_the_same_and_another_does_not() -> None:
    t = task(mlp)
    refine, *_ = refiner(t, OPTIMIZERS["sgd"](), settings(mixup=0.2, lr=(0.01, 0.1)))
    a, b, c = (refine(population(t), context(g))[0].genomes for g in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert math.isfinite(float(a.sum()))


def test_more_than_two_learning_rates_are_dealt_round_and_stay_where_nobody_is_bred() -> None:
    t, rates = task(linear), (0.001, 0.01, 0.1)
    start = population(t, 7)._replace(roles=roles({NEW: 7}, CPU))
    refine, *_ = refiner(t, OPTIMIZERS["sgd"](momentum=0.0), settings(lr=rates))
    once, _ = refine(start, context())
    twice, _ = refine(once, context(2))
    for found in (once, twice):
        torch.testing.assert_close(found.traits["lr"], torch.tensor([rates[i % 3] for i in range(7)]))
    for i, lr in enumerate(rates):  # each learns by its own
        alone, _ = refiner(t, OPTIMIZERS["sgd"](momentum=0.0), settings(lr=lr))[0](start, context())
        torch.testing.assert_close(once.genomes[i::3], alone.genomes[i::3])


def test_bred_individuals_keep_their_learning_rate_between_the_first_and_the_last() -> None:
    t = task(linear)
    bred = population(t, 40, {"lr": torch.full((40,), 0.1)})
    found, _ = refiner(t, OPTIMIZERS["sgd"](), settings(lr=(0.001, 0.01, 0.1)))[0](bred, context())
    assert 0.001 <= float(found.traits["lr"].min()) < float(found.traits["lr"].max()) == pytest.approx(0.1)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_steps_that_the_budget_cuts_are_those_of_fewer_steps(name: str) -> None:
    for state in ("fresh", "inherit"):
        t = task(mlp, individuals=2)
        whole = refiner(t, OPTIMIZERS[name](), settings(steps=9, optimizer_state=state))
        short = refiner(t, OPTIMIZERS[name](), settings(steps=3, optimizer_state=state))
        cut = context()._replace(steps=3)
        (a, cost), (b, expected) = whole[0](population(t), cut), short[0](population(t), context())
        assert cost == expected == whole[1](population(t), 3) == Cost(forward=N * 3 * 16, backward=N * 3 * 16)
        assert torch.equal(a.genomes, b.genomes)
        assert a.traits.keys() == b.traits.keys()
        assert all(torch.equal(a.traits[key], b.traits[key]) for key in a.traits)
        assert whole[1](population(t), 20) == whole[1](population(t), 9)
