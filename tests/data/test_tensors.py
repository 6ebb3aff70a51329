from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from neuroevo.data import tensors
from neuroevo.data.tensors import Table
from neuroevo.errors import InputError
from neuroevo.networks.modules import of_module

CPU = torch.device("cpu")
X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(200) % 4
NAMES = ("ash", "birch", "cedar", "dogwood")


def module(outputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, outputs))


def read(data: Any, network: nn.Module | None = None, trainable: tuple[str, ...] = (), seed: int = 0) -> Table:
    parts = tensors.parts(data)
    given = of_module(network or module(), parts["train" if "train" in parts else ""].some, trainable=trainable)
    return tensors.table(parts, given.backbone, given.classes, CPU, seed=seed)


class Pairs(Dataset[Any]):
    """A data set of the kind that reads its samples one by one."""

    def __init__(self, classes: Any = None, named: bool = False) -> None:
        self.reads = 0
        self.named = named
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[Tensor, Any]:
        if i >= len(X):
            raise IndexError
        self.reads += 1
        return X[i], NAMES[int(Y[i])] if self.named else int(Y[i])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y, strict=True))


KINDS: dict[str, Any] = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.double().numpy(), Y.numpy().astype(np.int32)),
    "lists": lambda: [X.tolist(), Y.tolist()],
    "a data set": Pairs,
    "a data set of tensors": lambda: TensorDataset(X, Y),
    "a stream": Stream,
    "a loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=37),
    "batches": lambda: ((X[i : i + 9], Y[i : i + 9]) for i in range(0, 200, 9)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_every_kind_are_the_same_samples_of_the_same_bytes(kind: str) -> None:
    x, y = X.clone(), Y.clone()
    found, first = read(KINDS[kind]()), read((X, Y))
    assert torch.equal(found.features.pieces[0], first.features.pieces[0])
    assert torch.equal(found.features.labels, Y)
    assert found.classes == ("0", "1", "2", "3")
    assert {name: rows.tolist() for name, rows in found.splits.items()} == {
        name: rows.tolist() for name, rows in first.splits.items()
    }
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 140, "validation": 30, "test": 30}
    assert found.computed == 200
    assert torch.equal(X, x)
    assert torch.equal(Y, y)


def test_features_are_those_of_the_frozen_prefix_in_batches_of_64() -> None:
    found = read((X, Y))
    body = module()[:3]
    with torch.no_grad():
        assert torch.equal(found.features.pieces[0], torch.cat([body(x.clone()) for x in X.split(64)]))
    deep = read((X, Y), trainable=("1", "3"))
    assert torch.equal(deep.features.pieces[0], X.relu())


def test_numbers_that_go_through_no_weights_cost_nothing() -> None:
    found = read((X, Y), nn.Linear(6, 4))
    assert found.computed == 0
    assert torch.equal(found.features.pieces[0], X)


def test_a_data_set_and_a_shuffled_loader_are_read_once_and_labels_stay_with_their_inputs() -> None:
    pairs = Pairs()
    loader = DataLoader(pairs, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(1))
    found = read(loader, nn.Linear(6, 4))
    assert pairs.reads == len(X)
    rows = [int((x == X).all(1).nonzero()[0]) for x in found.features.pieces[0]]
    assert rows != list(range(200))
    assert torch.equal(found.features.labels, Y[rows])


def test_reading_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    network = module()
    torch.manual_seed(3)
    read(Pairs(), network)
    assert torch.equal(torch.randn(4), expected)


def test_a_mapping_has_its_own_splits_and_validation_is_cut_from_train_where_it_lacks() -> None:
    own = read({"train": (X[:100], Y[:100]), "validation": TensorDataset(X[100:150], Y[100:150]),
                "test": DataLoader(TensorDataset(X[150:], Y[150:]), batch_size=7)})  # fmt: skip
    assert [len(own.splits[name]) for name in ("train", "validation", "test")] == [100, 50, 50]
    assert own.splits["test"].tolist() == list(range(150, 200))
    two = read({"test": (X[:100], Y[:100]), "train": (X[100:], Y[100:])}, nn.Linear(6, 4))
    assert torch.equal(two.features.pieces[0][two.splits["test"]], X[:100])
    assert [len(two.splits[name]) for name in ("train", "validation", "test")] == [85, 15, 100]
    alone = read({"train": (X, Y)})
    assert [len(alone.splits[name]) for name in ("train", "validation", "test")] == [170, 30, 0]


def test_splits_are_a_function_of_the_seed_and_stratified() -> None:
    a, b = (read((X, Y), seed=seed).splits for seed in (0, 1))
    assert not torch.equal(a["test"], b["test"])
    assert set(Y[a["test"]].bincount().tolist()) == {7, 8}


@pytest.mark.parametrize(
    ("data", "classes", "labels"),
    [
        ((X, Y + 3), ("3", "4", "5", "6"), Y),
        ((X, Y - 1), ("-1", "0", "1", "2"), Y),
        ((X, [NAMES[i] for i in Y]), NAMES, Y),
        ((X, np.array([NAMES[i] for i in Y], dtype=object)), NAMES, Y),
        (Pairs(NAMES[::-1]), NAMES[::-1], Y),
        (Pairs(NAMES[::-1], named=True), NAMES[::-1], 3 - Y),
        (DataLoader(Subset(Pairs(NAMES), range(200)), batch_size=50), NAMES, Y),
        ((X, Y.clamp(max=2)), ("0", "1", "2", "3"), Y.clamp(max=2)),  # of logits without a sample
    ],
    ids=["from 3", "from -1", "names", "objects", "own names", "names in their own order", "of a subset", "absent"],
)
def test_labels_become_the_places_of_logits_and_classes_keep_their_names(
    data: Any, classes: tuple[str, ...], labels: Tensor
) -> None:
    found = read(data)
    assert found.classes == classes
    assert torch.equal(found.features.labels, labels)


class Mappings(Pairs):
    def __getitem__(self, i: int) -> Any:
        return {"x": X[i], "y": int(Y[i])}


class Objects(Pairs):
    def __getitem__(self, i: int) -> Any:
        return object(), 1


class Ragged(Pairs):
    def __getitem__(self, i: int) -> Any:
        return X[i, : 5 + i % 2], 1


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (X, r"\(x, y\), \(x, y, groups\), a Dataset, a DataLoader, or a mapping .* expected, a Tensor given"),
        ("cifar10", "expected, a str given"),
        ((X, Y, Y, Y), r"\(x, y\) or \(x, y, groups\) expected, a tuple of 4 given"),
        ({"x": X, "y": Y}, "a mapping has train, .*; this one has x, y"),
        ({"validation": (X, Y)}, "this one has validation"),
        ({"train": (X, Y), "test": (X, Y[:3])}, "test: 200 inputs and 3 labels"),
        ((X[:, 0], Y), r"inputs of shape \[200\]; \[samples, ...\] expected"),
        ((X, Y.float()), "labels are float32; whole numbers or names expected"),
        ((X, torch.eye(4)[Y]), r"labels of shape \[200, 4\]; \[samples\] expected"),
        ((np.array([["a"] * 6] * 200), Y), "inputs are <U1; tensors of numbers expected"),
        ((X.to_sparse(), Y), "inputs are sparse or complex"),
        ((X[:0], Y[:0]), "there are no samples"),
        ((X, Y % 2 * 0), "all labels are 0; two classes are the least"),
        ((X, torch.arange(200) % 7), "labels are 0, 1, 2, 3, 4, 5, 6: 7 classes, and the model gives 4 logits"),
        ((X, [NAMES[i % 3] for i in Y]), "labels are ash, birch, cedar: 3 classes, and the model gives 4 logits"),
        ((X[:6], Y[:6]), "too few samples to cut test from .*; give a mapping of train, validation and test"),
        ({"train": (X, Y % 3), "test": (X, Y)}, "class 3 has no sample in the train split"),
        ({"train": (X, Y), "test": (X, [NAMES[i] for i in Y])}, "some labels are whole numbers and some are names"),
        ({"train": (X, Y), "test": (X[:, :5], Y)}, r"inputs of shape \[6\] and of \[5\]; all have one"),
        ((X.where(X < 2, torch.nan), Y), "sample [0-9]+ holds NaN or infinite numbers"),
        (Mappings(), r"samples \(input, label\) expected, a dict given"),
        (Objects(), "the input of a sample is a object; a tensor expected, as a transform makes"),
        (Ragged(), r"inputs of shape \[5\] and of \[6\]; all have one"),
        (DataLoader(TensorDataset(X, Y, Y)), r"\(inputs, labels\) expected, a list given"),
    ],
)
def test_what_are_no_samples_is_refused_in_one_line_that_names_data(data: Any, line: str) -> None:
    with pytest.raises(InputError, match=f"^data: .*{line}"):
        read(data)


def test_labels_that_are_known_are_looked_at_before_any_sample_is() -> None:
    parts = tensors.parts({"train": (X, Y), "test": (X, Y + 1)})
    backbone = of_module(module(), X).backbone

    def progress(done: int, total: int) -> None:
        raise AssertionError("a batch has been through the prefix")

    with pytest.raises(InputError, match="5 classes, and the model gives 4 logits"):
        tensors.table(parts, backbone, 4, CPU, progress=progress)
