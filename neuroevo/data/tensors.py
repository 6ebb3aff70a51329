"""Samples from Python: tensors and arrays, data sets, loaders, or a mapping of splits to those.

Each is read once, in batches that go through the frozen prefix as they come, so that the images of a loader never lie
in memory together. Inputs are tensors of one shape; what they mean is the module's affair.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from neuroevo import devices
from neuroevo.data import inventory
from neuroevo.data.arrays import Groups, Vectors
from neuroevo.data.augment import BATCH
from neuroevo.data.datasets import Dataset
from neuroevo.data.foldernames import SPLITS
from neuroevo.data.images import hash_rows
from neuroevo.data.samples import Features
from neuroevo.data.splits import cut_fold, split
from neuroevo.errors import InputError
from neuroevo.networks.backbones import Backbone

SHARE = 0.15  # of the samples that validation and test are cut with, as a run's are by default
SHOWN = 8  # names in a line
KINDS = "(x, y), (x, y, groups), a Dataset, a DataLoader, or a mapping of train, validation, test to those"

Array = npt.NDArray[Any]
Progress = Callable[[int, int], object]
Batch = tuple[Tensor, Array]  # inputs [B, ...], labels [B] of whole numbers or strings


class Part(NamedTuple):
    """Samples that can be read once."""

    some: Tensor  # the first inputs [k, ...]
    batches: Iterator[Batch]  # all of them
    size: int | None  # how many there are, where it is known
    classes: tuple[str, ...] | None  # names of the labels 0, 1, ..., where there are any
    labels: Array | None = None  # all of them, where they are known before anything is read
    groups: Array | None = None  # of all samples, where they are given


class Table(NamedTuple):
    """Samples as the part of a module that evolves sees them."""

    features: Features  # of all splits
    splits: dict[str, Tensor]  # {name: [rows] int64}
    classes: tuple[str, ...]  # of the logits
    computed: int  # samples that went through a frozen prefix
    groups: tuple[str, ...] = ()  # the names of the samples' groups
    notes: tuple[str, ...] = ()  # lines on samples that are there twice
    seed: int = 0  # by which they were split

    def fold(self, number: int, count: int) -> "Table":
        """Return the same samples, of train and validation that fold held out; all are train where it is number 0.

        They are those that a run's splits are of the same labels. InputError where there are too few.
        """
        pool = np.sort(torch.cat([self.splits["train"], self.splits["validation"]]).numpy())
        own = cut_fold(pool, self.features.labels.cpu().numpy(), (number, count), self.seed)
        return self._replace(splits={**self.splits, **{name: torch.from_numpy(rows) for name, rows in own.items()}})


def parts(data: Any) -> dict[str, Part]:
    """Return the parts of data by split, `` for what is to be split yet; InputError where they are none."""
    if not isinstance(data, Mapping):
        return {"": _part(data, "")}
    odd = [str(name) for name in data if name not in SPLITS]
    if odd or "train" not in data:
        there = ", ".join(map(str, data)) or "nothing"
        raise InputError(f"a mapping has train, and perhaps validation and test; this one has {there}", option="data")
    return {name: _part(data[name], f"{name}: ") for name in SPLITS if name in data}


def table(
    given: Mapping[str, Part],
    backbone: Backbone,
    outputs: int,
    device: torch.device,
    *,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Table:
    """Read the parts of data through a backbone on a device, and label them by the places of so many logits.

    What isn't split yet is cut into train, validation and test by `seed`, and validation from train where it lacks; a
    mapping without test has none. `progress(done, total)` is called after each batch, where the total is known.
    """
    known = {name: source.labels for name, source in given.items() if source.labels is not None}
    if len(known) == len(given):
        _label(given, known, outputs, seed)  # what is wrong is said before the pass
    labels: dict[str, list[Array]] = {name: [] for name in given}
    hashes: list[str] = []

    def inputs() -> Iterator[Tensor]:
        shape = next(iter(given.values())).some.shape[1:]
        for name, source in given.items():
            for x, y in _in_batches(source.batches):
                if x.shape[1:] != shape:
                    raise InputError(
                        f"inputs of shape {list(shape)} and of {list(x.shape[1:])}; all have one", option="data"
                    )
                labels[name].append(y)
                hashes.extend(hash_rows(x.cpu().numpy()))
                yield x

    sizes = [source.size for source in given.values()]
    backbone.to(device)
    total = None if None in sizes else sum(size or 0 for size in sizes)
    rows = features_of(backbone, inputs(), device, total, progress=progress)
    found = {name: np.concatenate(each) for name, each in labels.items()}
    classes, places, splits = _label(given, found, outputs, seed)
    groups = _groups(given)
    of = None if groups is None else torch.from_numpy(groups.of).to(device)
    features = Features((rows,), torch.from_numpy(places).to(device), None, device, groups=of)
    computed = len(rows) if _computes(backbone) else 0
    names = [f"row {i}" for i in range(len(hashes))] if len(given) == 1 else ()
    notes = inventory.repeats(hashes, places, splits, "samples", names)
    return Table(features, splits, classes, computed, () if groups is None else groups.names, tuple(notes), seed)


def _groups(given: Mapping[str, Part]) -> Groups | None:
    """Return the groups of all samples, None where none are given; InputError where only some have any."""
    found = [source.groups for source in given.values()]
    if all(each is None for each in found):
        return None
    lacking = [name for name, source in given.items() if source.groups is None]
    if lacking:
        raise InputError(f"{lacking[0]} has no groups, and others have; give all of them, or none", option="data")
    return Groups.among([str(group) for each in found if each is not None for group in each.tolist()])


def features_of(
    backbone: Backbone,
    inputs: Iterable[Tensor],
    device: torch.device,
    total: int | None = None,
    *,
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """Return the features [N, d] of batches of inputs, kept on the device where they fit; `total` is N, where known.

    `progress(done, total)` is called after each batch where it is. InputError names the first sample that has NaN or
    infinite ones.
    """
    kept: list[Tensor] = []
    done, out = 0, None
    for x in inputs:
        with torch.no_grad():
            rows = backbone.features(x.to(device, copy=True)).float()  # a layer may work in place
        bad = (~rows.isfinite()).any(1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            whose = "holds" if not bool(x[row].isfinite().all()) else "has features with"
            raise InputError(f"sample {done + row} {whose} NaN or infinite numbers", option="data")
        if out is None and total is not None:
            size = 4 * total * rows.shape[1]
            fits = size < devices.available_memory(device) / 2
            out = torch.empty(total, rows.shape[1], device=device if fits else "cpu")
        if out is None:
            kept.append(rows.cpu())
        else:
            out[done : done + len(rows)] = rows
        done += len(rows)
        if total is not None:
            progress(done, total)
    if out is not None:
        return out[:done]
    rows = torch.cat(kept)
    return rows.to(device) if rows.nbytes < devices.available_memory(device) / 2 else rows


def _label(
    given: Mapping[str, Part], labels: Mapping[str, Array], outputs: int, seed: int
) -> tuple[tuple[str, ...], npt.NDArray[np.int64], dict[str, Tensor]]:
    """Return the classes of so many logits, the place of each label among them, and the rows of each split."""
    if len({y.dtype.kind for y in labels.values()}) > 1:
        raise InputError("some labels are whole numbers and some are names", option="data")
    names = next((source.classes for source in given.values() if source.classes is not None), None)
    classes, places = _place(np.concatenate([*labels.values()]), outputs, names)
    part = [np.full(len(y), SPLITS.index(name) if name else -1, dtype=np.int64) for name, y in labels.items()]
    return classes, places, _split(classes, places, np.concatenate(part), "" in given, seed)


def _computes(backbone: Backbone) -> bool:
    """Tell whether anything is computed of a sample before what evolves sees it."""
    prefix = backbone.body if backbone.cut is None else backbone.cut.prefix
    return any(True for _ in prefix.parameters())


def _part(data: Any, where: str) -> Part:
    """Return what some data hold; InputError, `where` before its line, for what are none."""
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data = data.tensors
    if isinstance(data, tuple | list):
        return _of_arrays(data, where)
    loader: Iterable[Any] | None = None
    if isinstance(data, IterableDataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        if not isinstance(data, Tensor | np.ndarray | str):
            # A generator of its own, as a loader would draw from the global one.
            own = torch.Generator()
            loader = DataLoader(data, BATCH, collate_fn=lambda items: _stack(items, where), generator=own)
    elif isinstance(data, Iterable):
        loader = data
    if loader is None:
        raise InputError(f"{where}{KINDS} expected, a {type(data).__name__} given", option="data")
    size = len(data) if loader is not data and not isinstance(data, IterableDataset) else None
    batches = (_batch(batch, where) for batch in loader)
    first = next(batches, None)
    if first is None:
        raise InputError(f"{where}there are no samples", option="data")

    def every() -> Iterator[Batch]:
        yield first
        yield from batches

    return Part(first[0], every(), size, _names(data))


def _of_arrays(data: Sequence[Any], where: str) -> Part:
    if len(data) not in (2, 3):
        line = f"(x, y) or (x, y, groups) expected, a {type(data).__name__} of {len(data)} given"
        raise InputError(f"{where}{line}", option="data")
    x, y = _batch(data[:2], where)
    groups = None if len(data) == 2 else _labels(data[2], where, "groups")
    if groups is not None and len(groups) != len(x):
        raise InputError(f"{where}{len(x)} inputs and {len(groups)} groups", option="data")
    if not len(x):
        raise InputError(f"{where}there are no samples", option="data")
    slices = ((x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH))
    return Part(x[:BATCH], slices, len(x), None, y, groups)


def _batch(batch: Any, where: str) -> Batch:
    """Return inputs and labels of a batch; InputError where they are none."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InputError(f"{where}(inputs, labels) expected, a {type(batch).__name__} given", option="data")
    x, y = _inputs(batch[0], where), _labels(batch[1], where)
    if len(x) != len(y):
        raise InputError(f"{where}{len(x)} inputs and {len(y)} labels", option="data")
    return x, y


def _inputs(x: Any, where: str) -> Tensor:
    if not isinstance(x, Tensor):
        given = np.asarray(x)
        if given.dtype.kind not in "fiub":
            raise InputError(f"{where}inputs are {given.dtype}; tensors of numbers expected", option="data")
        x = torch.from_numpy(np.ascontiguousarray(given).copy() if not given.flags.writeable else given)
    if x.layout != torch.strided or x.is_complex():
        raise InputError(f"{where}inputs are sparse or complex; plain tensors expected", option="data")
    if x.ndim < 2:
        raise InputError(f"{where}inputs of shape {list(x.shape)}; [samples, ...] expected", option="data")
    found: Tensor = x.detach().float() if x.is_floating_point() else x.detach().long()
    return found


def _labels(y: Any, where: str, what: str = "labels") -> Array:
    """Return labels, or `what` they are called, [B] as whole numbers or strings."""
    found = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if found.ndim != 1:
        raise InputError(f"{where}{what} of shape {list(found.shape)}; [samples] expected", option="data")
    if found.dtype.kind == "O" and all(isinstance(value, str) for value in found):
        found = found.astype(str)
    if found.dtype.kind in "iub":
        return found.astype(np.int64)
    if found.dtype.kind != "U":
        raise InputError(f"{where}{what} are {found.dtype}; whole numbers or names expected", option="data")
    return found


def _stack(items: Sequence[Any], where: str) -> Batch:
    """Stack samples (input, label)."""
    inputs, labels = [], []
    for item in items:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(f"{where}samples (input, label) expected, a {type(item).__name__} given", option="data")
        x = item[0] if isinstance(item[0], Tensor) else np.asarray(item[0]) if _plain(item[0]) else None
        if x is None:
            raise InputError(
                f"{where}the input of a sample is a {type(item[0]).__name__}; a tensor expected, as a transform makes "
                "one of an image",
                option="data",
            )
        inputs.append(torch.as_tensor(x))
        labels.append(item[1].item() if isinstance(item[1], Tensor | np.generic) else item[1])
    shapes = {tuple(x.shape) for x in inputs}
    if len(shapes) > 1:
        several = " and of ".join(str(list(shape)) for shape in sorted(shapes)[:2])
        raise InputError(f"{where}inputs of shape {several}; all have one", option="data")
    return torch.stack(inputs), _labels(labels, where)


def _plain(x: Any) -> bool:
    return isinstance(x, np.ndarray | list | tuple)


def _names(data: Any) -> tuple[str, ...] | None:
    """Return the names that a data set has for its labels, or the one that it is a part of."""
    while data is not None:
        names = getattr(data, "classes", None)
        if isinstance(names, tuple | list) and all(isinstance(name, str) for name in names):
            return tuple(names)
        data = getattr(data, "dataset", None)
    return None


def _in_batches(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield batches of BATCH samples whatever the size of those given: how they are sliced changes rounding."""
    x: Tensor | None = None
    y: list[Array] = []
    for more, labels in batches:
        x = more if x is None or not len(x) else torch.cat([x, more])
        y.append(labels)
        if len(x) >= BATCH:
            every, start = np.concatenate(y), 0
            while len(x) - start >= BATCH:
                yield x[start : start + BATCH], every[start : start + BATCH]
                start += BATCH
            x, y = x[start:], [every[start:]]
    if x is not None and len(x):
        yield x, np.concatenate(y)


def _place(values: Array, outputs: int, names: tuple[str, ...] | None) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Return the names of the classes that so many logits are of, and the place of each label among them.

    Whole numbers from 0 are places themselves; others and names are sorted, unless a data set has an order of its own.
    """
    distinct = np.unique(values)
    if len(distinct) < 2:
        raise InputError(f"all labels are {distinct[0]}; two classes are the least", option="data")
    if names is not None and len(names) != outputs:
        names = None
    if values.dtype.kind == "i" and distinct[0] >= 0 and distinct[-1] < outputs:
        return names or tuple(map(str, range(outputs))), values
    if values.dtype.kind == "U" and names is not None and {*distinct.tolist()} <= {*names}:
        place = {name: i for i, name in enumerate(names)}
        return names, np.array([place[value] for value in values.tolist()], dtype=np.int64)
    if len(distinct) != outputs:
        shown = ", ".join(map(str, distinct[:SHOWN].tolist())) + (", ..." if len(distinct) > SHOWN else "")
        raise InputError(
            f"labels are {shown}: {len(distinct)} classes, and the model gives {outputs} logits", option="data"
        )
    return tuple(map(str, distinct.tolist())), np.searchsorted(distinct, values).astype(np.int64)


def _split(
    classes: tuple[str, ...], labels: npt.NDArray[np.int64], part: npt.NDArray[np.int64], test: bool, seed: int
) -> dict[str, Tensor]:
    """Return the rows of each split; a class that no sample is of is nobody's to miss."""
    there, compact = np.unique(labels, return_inverse=True)
    own = Dataset(tuple(classes[i] for i in there), Vectors(np.empty((0, 1), np.float32)), compact, part)
    try:
        return split(own, seed, SHARE, SHARE if test else None)
    except InputError as error:
        if error.option == "data":
            raise
        raise InputError(
            f"too few samples to cut {error.option} from ({error}); give a mapping of train, validation and test",
            option="data",
        ) from None
