import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_folder
from PIL import Image
from torch import Tensor, nn

from neuroevo import devices
from neuroevo.data import cache as cache_module
from neuroevo.data import datasets, feature_cache, samples
from neuroevo.data.augment import Augment, Live, views
from neuroevo.data.components import FLAT, principal, projection, statistics
from neuroevo.data.datasets import Dataset
from neuroevo.data.images import Arrays
from neuroevo.data.pixels import pixels
from neuroevo.errors import InputError, Interrupted
from neuroevo.networks import affine, backbones
from neuroevo.networks.backbones import Backbone
from neuroevo.networks.libraries import Transform

CPU = torch.device("cpu")


class Counting(nn.Module):
    """A backbone that counts the images it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        features: Tensor = self.head(x.mean((2, 3)))
        return features


def counting(digest: str = "d") -> Backbone:
    transform = Transform((8, 8), "bilinear", 3, (0.5,) * 3, (0.5,) * 3)
    return Backbone("test/counting", Counting(), "head", None, transform, digest)


def images(n: int = 150, seed: int = 0) -> Dataset:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    return Dataset(("a", "b"), Arrays(pixels), np.arange(n) % 2, np.full(n, -1))


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path))
    return tmp_path


def nothing(done: int, total: int) -> None:
    pass


def test_the_backbone_runs_once_an_image_and_never_again() -> None:
    backbone = counting()
    rows, computed = feature_cache.fetch(backbone, images(), CPU, nothing)
    assert (computed, backbone.body.seen) == (150, 150)
    again, computed = feature_cache.fetch(backbone, images(), CPU, nothing)
    assert (computed, backbone.body.seen) == (0, 150)
    assert torch.equal(rows, again)


def test_rows_are_in_the_data_sets_order() -> None:
    whole = images()
    rows, _ = feature_cache.fetch(counting(), whole, CPU, nothing)
    means = torch.from_numpy(whole.images.pixels).double().mean((1, 2)) / 255  # type: ignore[union-attr]
    torch.testing.assert_close(rows[:, 0].double(), (means - 0.5) / 0.5, rtol=1e-5, atol=1e-6)


def test_whatever_features_depend_on_changes_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def address(backbone: Backbone | None = None, seed: int = 0) -> str:
        return feature_cache.address(backbone or counting(), images(seed=seed).images, "float32")

    b = counting()
    found = {
        address(),
        address(counting("other weights")),
        address(b._replace(name="test/other")),
        address(b._replace(transform=b.transform._replace(size=(9, 9)))),
        address(b._replace(transform=b.transform._replace(mean=(0.4,) * 3))),
        address(b._replace(transform=b.transform._replace(interpolation="bicubic"))),
        address(seed=1),
    }
    monkeypatch.setattr(torch, "__version__", "0.0")
    found.add(address())
    assert len(found) == 8


def test_two_runs_at_once_compute_features_once() -> None:
    seen: list[int] = []
    both = threading.Barrier(2)

    def work() -> None:
        both.wait()
        seen.append(feature_cache.fetch(counting(), images(600), CPU, nothing)[1])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [0, 600]


def stop(done: int, total: int) -> None:
    if done > 64:
        raise Interrupted(130)


def only(folder: Path, suffix: str) -> Path:
    (path,) = (folder / "features").glob(f"*{suffix}")
    return path


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_interrupted_computation_is_gone_on_with_to_the_same_bytes(
    fresh: Path, augmented: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"dtype": dtype} | ({"augment": Augment([CROP], (8, 8)), "view": 1} if augmented else {})
    feature_cache.fetch(counting(), images(), CPU, nothing, **given)
    whole = only(fresh, ".npy").read_bytes()
    monkeypatch.setenv("NEUROEVO_CACHE", str(fresh / "again"))
    backbone, lines = counting(), []
    with pytest.raises(Interrupted):
        feature_cache.fetch(backbone, images(), CPU, stop, **given)
    assert feature_cache.fetch(backbone, images(), CPU, nothing, **given, log=lines.append)[1] == 150
    assert backbone.body.seen == 150
    assert lines == ["features: going on after 128 of 150 images"]
    assert only(fresh / "again", ".npy").read_bytes() == whole
    assert sorted(path.suffix for path in (fresh / "again" / "features").iterdir()) == [".lock", ".npy"]


def test_a_pass_that_was_killed_before_its_last_step_computes_nothing_again(fresh: Path) -> None:
    with pytest.raises(Interrupted):
        feature_cache.fetch(counting(), images(128), CPU, stop)
    backbone = counting()
    assert feature_cache.fetch(backbone, images(128), CPU, nothing)[1] == 128  # whoever completes a pass pays for it
    assert backbone.body.seen == 0


def test_who_waited_for_a_pass_that_died_goes_on_with_it() -> None:
    begun, waits, end = threading.Event(), threading.Event(), []

    def dies(done: int, total: int) -> None:
        begun.set()
        waits.wait()
        stop(done, total)

    def first() -> None:
        with pytest.raises(Interrupted):
            feature_cache.fetch(counting(), images(), CPU, dies)

    shown: list[tuple[int, int]] = []

    def show(done: int, total: int) -> None:
        shown.append((done, total))
        waits.set()

    threads = [
        threading.Thread(target=first),
        threading.Thread(target=lambda: end.append(feature_cache.fetch(counting(), images(), CPU, show)[1])),
    ]
    threads[0].start()
    begun.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert shown[0] == (64, 150)  # of the other
    assert shown[-1] == (150, 150)
    assert end == [150]


def test_damaged_features_are_computed_anew_and_it_is_said(fresh: Path) -> None:
    expected, _ = feature_cache.fetch(counting(), images(), CPU, nothing)
    path = only(fresh, ".npy")
    content = path.read_bytes()
    for at in (0, 70, 131, len(content) // 2, len(content) - 1):
        damaged, lines = bytearray(content), []
        damaged[at] ^= 4
        path.write_bytes(damaged)
        rows, computed = feature_cache.fetch(counting(), images(), CPU, nothing, log=lines.append)
        assert (computed, lines) == (150, [f"cached features {path}: damaged, computed anew"])
        assert torch.equal(rows, expected)
        assert path.read_bytes() == content
    path.unlink()
    (path / "in it").mkdir(parents=True)
    with pytest.raises(InputError, match="features: .*: Directory not empty; mend that"):
        feature_cache.fetch(counting(), images(), CPU, nothing)


def test_damaged_components_are_computed_anew_and_it_is_said(fresh: Path) -> None:
    rows, train, lines = correlated(77, 5), torch.arange(77), []
    scale = statistics(rows, train)
    axes, deviations = principal(rows, train, scale, "k", lines.append)
    path = only(fresh, ".npz")
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:-1], content[:300] + b"?" + content[301:]):
        path.write_bytes(damaged)
        again = principal(rows, train, scale, "k", lines.append)
        assert torch.equal(again[0], axes)
        assert torch.equal(again[1], deviations)
        assert path.read_bytes() == content
    assert lines == [f"cached components {path}: damaged, computed anew"] * 4


def test_a_cache_that_can_only_be_read_serves_what_it_has(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = feature_cache.fetch(counting(), images(), CPU, nothing)
    components = fitted(rows, 2, 0.0)
    monkeypatch.setattr(cache_module, "lock", None)
    assert feature_cache.fetch(counting(), images(), CPU, nothing)[1] == 0
    assert torch.equal(fitted(rows, 2, 0.0).axes, components.axes)


class Odd(Counting):
    """A backbone whose features are `value` where an image is bright."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(super().forward(x) > 0.9, self.value, 1.0)


@pytest.mark.parametrize(
    ("value", "dtype", "line"),
    [
        (float("nan"), "float32", "image 70: its features by test/counting are NaN or infinite"),
        (float("inf"), "float16", "image 70: its features by test/counting are NaN or infinite"),
        (
            -70000.0,
            "float16",
            r"^dtype: float16 can't hold 70000, a feature of image 70 \(it ends at 65504\); u",
        ),
        (70000.0, "float32", None),
        (60000.0, "float16", None),
    ],
)
def test_features_that_are_not_finite_are_refused(fresh: Path, value: float, dtype: str, line: str | None) -> None:
    whole, backbone = images(), counting()._replace(body=Odd(value))
    whole.images.pixels[70] = 255  # type: ignore[union-attr]
    if line is None:
        assert float(feature_cache.fetch(backbone, whole, CPU, nothing, dtype=dtype)[0].max()) == value
        return
    with pytest.raises(InputError, match=line):
        feature_cache.fetch(backbone, whole, CPU, nothing, dtype=dtype)
    assert [path.suffix for path in (fresh / "features").iterdir()] == [".lock"]


def test_a_broken_image_costs_none_of_the_batches_before_it(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", {"": {"a": 80, "b": 80}})
    whole = datasets.image_folder(root=str(root))
    backbone = counting()
    content = (root / "b" / "079.png").read_bytes()
    (root / "b" / "079.png").write_bytes(content[:40])  # after its content was hashed, as a network drive fails
    whole.images.fingerprint = lambda: "known"  # type: ignore[method-assign]
    with pytest.raises(InputError, match="079.png: broken image"):
        feature_cache.fetch(backbone, whole, CPU, nothing)
    (root / "b" / "079.png").write_bytes(content)
    feature_cache.fetch(backbone, whole, CPU, nothing)
    assert backbone.body.seen == 160


def test_features_that_do_not_fit_in_memory_are_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, _ = feature_cache.fetch(counting(), images(), CPU, nothing)
    monkeypatch.setattr(devices, "available_memory", lambda device: 100)
    real, modes = np.load, []
    monkeypatch.setattr(np, "load", lambda path, mmap_mode=None: modes.append(mmap_mode) or real(path, mmap_mode))
    mapped, _ = feature_cache.fetch(counting(), images(), CPU, nothing)
    assert modes == ["c"]
    assert torch.equal(mapped, loaded)


def test_standardised_features_have_mean_0_and_deviation_1_on_the_train_split() -> None:
    rows = torch.randn(5000, 7) * torch.arange(1, 8) + 1000
    rows[:, 3] = 5.0  # constant
    train = torch.arange(0, 5000, 2)
    z = statistics(rows, train)(rows[train])
    torch.testing.assert_close(z.mean(0), torch.zeros(7), atol=1e-3, rtol=0)
    expected = torch.ones(7)
    expected[3] = 0
    torch.testing.assert_close(z.std(0, correction=0), expected, atol=1e-4, rtol=0)


def test_standardisation_folds_into_a_layer_and_out_again() -> None:
    rows = torch.randn(300, 20) * 3 + 2
    z = statistics(rows, torch.arange(300))
    weights = {"fc.weight": torch.randn(4, 5, 20), "fc.bias": torch.randn(4, 5)}
    folded = z.fold(weights, "fc")
    inside = torch.einsum("noi,bi->nbo", weights["fc.weight"], z(rows)) + weights["fc.bias"][:, None]
    outside = torch.einsum("noi,bi->nbo", folded["fc.weight"], rows) + folded["fc.bias"][:, None]
    torch.testing.assert_close(inside, outside, rtol=1e-4, atol=1e-4)
    back = z.unfold(folded, "fc")
    for name in weights:
        torch.testing.assert_close(back[name], weights[name], rtol=1e-5, atol=1e-5)


def correlated(n: int, d: int) -> Tensor:
    """Features with a mean and directions of falling variance."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(d, d, generator=generator) / d**0.5
    return torch.randn(n, d, generator=generator) * 0.9 ** torch.arange(d) @ mixed + 3


def fitted(rows: Tensor, components: int | None, whitening: float, train: Tensor | None = None) -> affine.Projection:
    train = torch.arange(len(rows)) if train is None else train
    scale = statistics(rows, train)
    return projection(*principal(rows, train, scale, "k"), scale, components, whitening)


@pytest.mark.parametrize(("n", "d"), [(500, 12), (20, 30), (12, 12), (6000, 3)])
def test_components_are_those_of_a_singular_value_decomposition(n: int, d: int) -> None:
    rows, train = correlated(n + 5, d), torch.arange(0, n)
    scale = statistics(rows, train)
    axes, deviations = principal(rows, train, scale, "k")
    z = scale(rows[train]).double().numpy()
    _, singular, right = np.linalg.svd(z - z.mean(0), full_matrices=False)
    kept = int((singular[: n - 1] > FLAT * singular[0]).sum())
    assert axes.shape == (d, kept)
    np.testing.assert_allclose(deviations.numpy(), singular[:kept] / n**0.5, rtol=1e-5)
    same = np.abs(right[:kept] @ axes.numpy())
    np.testing.assert_allclose(same, np.eye(kept), atol=1e-4)


@pytest.mark.parametrize("components", [4, None])
def test_projected_features_have_a_mean_variance_of_1_and_each_has_it_when_fully_whitened(
    components: int | None,
) -> None:
    rows = correlated(4000, 10)
    for whitening in (0.0, 0.5, 1.0):
        z = fitted(rows, components, whitening)(rows)
        variances = z.var(0, correction=0)
        assert z.shape[1] == (components or 10)
        torch.testing.assert_close(z.mean(0), torch.zeros(z.shape[1]), atol=1e-4, rtol=0)
        assert float(variances.mean()) == pytest.approx(1, rel=1e-3)
        assert (variances.diff() < 0).all() or whitening == 1
        covariance = z.T @ z / len(z)
        assert (covariance - covariance.diag().diag()).abs().max() < 1e-2
    torch.testing.assert_close(variances, torch.ones(z.shape[1]), rtol=1e-2, atol=0)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("components", [5, None])
def test_a_projection_folds_into_a_layer_and_out_again(components: int | None, whitening: float) -> None:
    rows = correlated(300, 20)
    p = fitted(rows, components, whitening)
    weights = {"fc.weight": torch.randn(4, 6, p.width), "fc.bias": torch.randn(4, 6)}
    folded = p.fold(weights, "fc")
    inside = torch.einsum("noi,bi->nbo", weights["fc.weight"], p(rows)) + weights["fc.bias"][:, None]
    outside = torch.einsum("noi,bi->nbo", folded["fc.weight"], rows) + folded["fc.bias"][:, None]
    assert (inside - outside).abs().max() < 1e-4 * inside.abs().mean()
    back = p.unfold(folded, "fc")
    for name in weights:
        torch.testing.assert_close(back[name], weights[name], rtol=1e-3, atol=1e-3)


def test_features_are_decomposed_once_and_others_anew(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    counted: list[int] = []
    real = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: counted.append(1) or real(matrix))
    rows = correlated(77, 5)
    first, again = fitted(rows, 3, 0.5), fitted(rows, 2, 0.0)
    assert len(counted) == 1
    assert first.width == 3
    assert again.width == 2
    fitted(rows, 3, 0.5, torch.arange(70))
    fitted(rows + 1, 3, 0.5)
    assert len(counted) == 3
    assert not list((cache / "features").glob("*.partial"))


def test_features_are_projected_at_once_or_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = correlated(5000, 6)
    whole = samples.Features((rows, rows[:10] + 1), torch.zeros(5010).long(), None, CPU)
    p = fitted(rows, 2, 0.5)
    at_once = whole.through(p)
    assert at_once.dim == 2
    monkeypatch.setattr(devices, "available_memory", lambda device: 1000)
    later = whole.through(p)
    assert later.pieces[0] is rows
    index = torch.tensor([4999, 0, 5003, 4100])
    torch.testing.assert_close(at_once.batch(index)[0], later.batch(index)[0])
    torch.testing.assert_close(at_once.batch(index)[0], p(torch.cat([rows, rows[:10] + 1])[index]))


def test_grey_images_are_fed_to_colour_backbones(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"train": {"a": 3, "b": 3}}, grey=True)
    whole = datasets.image_folder(root=str(tmp_path / "data"))
    rows, _ = feature_cache.fetch(counting(), whole, CPU, nothing)
    assert rows.shape == (6, 3)
    assert torch.equal(rows[:, 0], rows[:, 2])
    pixels = backbones.build("none", "none", None, whole.native())
    assert feature_cache.fetch(pixels, whole, CPU, nothing)[0].shape == (6, 64)


def test_a_real_network_gives_the_features_it_gives_alone() -> None:
    torch.manual_seed(0)
    backbone = backbones.build("timm/resnet10t", "none", 32, (8, 8, 1))
    whole = images(5)
    rows, _ = feature_cache.fetch(backbone, whole, CPU, nothing)
    up = [pixels(whole.images[i], 3, (32, 32), Image.Resampling.BICUBIC) for i in range(5)]
    x = torch.from_numpy(np.stack(up)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.transform.mean, backbone.transform.std))
    with torch.inference_mode():
        alone = torch.cat([backbone.features((image[None] - mean) / std) for image in x])
    torch.testing.assert_close(rows, alone, rtol=1e-3, atol=1e-4)


CROP = {"name": "RandomResizedCrop", "scale": [0.3, 1.0]}


def test_augmented_images_are_a_function_of_the_seed_and_leave_the_global_generator_as_it_was() -> None:
    image = images(1, seed=5).images[0].resize((40, 40))
    augment = Augment([CROP, {"name": "RandomHorizontalFlip"}], (8, 8))
    transform = counting().transform
    torch.manual_seed(1)
    a, after = augment(image, transform, 3), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    assert a.shape == (8, 8, 3)
    assert np.array_equal(a, augment(image, transform, 3))
    assert not np.array_equal(a, augment(image, transform, 4))


@pytest.mark.parametrize(
    "name", ["RandomResizedCrop", "RandomHorizontalFlip", "ColorJitter", "RandAugment", "RandomCrop"]
)
def test_transforms_are_named_as_torchvision_names_them(name: str) -> None:
    options = {"padding": 2} if name == "RandomCrop" else {}
    image = images(1).images[0].resize((40, 40))
    assert Augment([{"name": name, **options}], (8, 8))(image, counting().transform, 0).shape == (8, 8, 3)


def test_a_transform_that_is_not_there_or_not_so_is_refused() -> None:
    with pytest.raises(InputError, match=r"^augment.0: torchvision has no transform 'RandomHorizontalFlop'; near: Ran"):
        Augment([{"name": "RandomHorizontalFlop"}], (8, 8))
    with pytest.raises(InputError, match=r"^augment.1: ColorJitter: "):
        Augment([CROP, {"name": "ColorJitter", "brightnes": 1}], (8, 8))


def test_views_are_cached_each_apart_and_rows_lead_to_them() -> None:
    whole, backbone = images(10), counting()
    augment = Augment([CROP], (8, 8))
    train = torch.tensor([1, 3, 4, 8])
    part = whole.take(train.numpy())
    clean, _ = feature_cache.fetch(backbone, whole, CPU, nothing)
    seen = [feature_cache.fetch(backbone, part, CPU, nothing, augment=augment, view=view)[0] for view in range(3)]
    assert len({feature_cache.address(backbone, part.images, "float32", augment, v) for v in range(3)}) == 3
    labels = torch.from_numpy(np.concatenate([whole.labels, *[part.labels] * 3]))
    cached = samples.Features((clean, *seen), labels, None, CPU)
    view = views(3, 10, train)
    rows = view(torch.tensor([3, 8, 3, 1] * 50), torch.Generator().manual_seed(0))
    assert int(rows.min()) >= 10
    x, y = cached.batch(rows)
    assert torch.equal(y, torch.from_numpy(whole.labels)[torch.tensor([3, 8, 3, 1] * 50)])
    for i, row in enumerate(rows.tolist()):
        v, place = divmod(row - 10, 4)
        assert torch.equal(x[i], seen[v][place])
    assert {(row - 10) // 4 for row in rows.tolist()} == {0, 1, 2}
    assert torch.equal(cached.batch(torch.tensor([3]))[0][0], clean[3])


def test_live_views_run_the_backbone_on_fresh_crops_and_count_them() -> None:
    whole, backbone = images(10), counting()
    live = Live(backbone, whole, Augment([CROP], (8, 8)), CPU)
    clean, _ = feature_cache.fetch(backbone, whole, CPU, nothing)
    cached = samples.Features((clean,), torch.from_numpy(whole.labels), None, CPU, live)
    view, source = views(0, 10, torch.arange(10)), torch.Generator().manual_seed(0)
    rows = view(torch.tensor([3, 7, 3]), source)
    x, y = cached.batch(rows)
    assert torch.equal(y, torch.from_numpy(whole.labels)[[3, 7, 3]])
    assert not torch.equal(x[0], x[2])
    assert torch.equal(cached.batch(rows)[0], x)
    assert live.computed == 3
    again = Live(backbone, whole, Augment([CROP], (8, 8)), CPU)
    assert torch.equal(again(rows), x)
    assert not torch.equal(view(torch.tensor([3, 7, 3]), source), rows)


@pytest.mark.parametrize("channels", [2, 5])
def test_arrays_of_many_channels_are_images_too(tmp_path: Path, channels: int) -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "data" / "train" / label).mkdir(parents=True)
        for i in range(4):
            np.save(
                tmp_path / "data" / "train" / label / f"{i}.npy", rng.integers(0, 256, (9, 9, channels), dtype=np.uint8)
            )
    whole = datasets.image_folder(root=str(tmp_path / "data"))
    assert whole.native() == (9, 9, channels)
    torch.manual_seed(0)
    backbone = backbones.build("timm/resnet10t", "none", 32, whole.native(), channels=channels)
    assert feature_cache.fetch(backbone, whole, CPU, nothing)[0].shape == (8, 512)
    pixels = backbones.build("none", "none", None, whole.native())
    assert feature_cache.fetch(pixels, whole, CPU, nothing)[0].shape == (8, 81 * channels)
    with pytest.raises(InputError, match=f"an image has {channels} channels, 3 are expected"):
        feature_cache.fetch(backbones.build("timm/resnet10t", "none", 32, whole.native()), whole, CPU, nothing)
