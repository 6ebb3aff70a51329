"""What is packed is what is unpacked: tensors as they lie, functions of any kind, large tensors once."""

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from neuroevo.data import feature_cache
from neuroevo.remote import parcels

pytest.importorskip("cloudpickle", reason="the extra ray is not installed")
TENSORS = {
    "plain": torch.arange(12.0).view(3, 4),
    "a part of another": torch.arange(24.0).view(4, 6)[1:3, 2:5],
    "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "expanded": torch.ones(1, 3).expand(5, 3),
    "empty": torch.empty(0, 4),
    "one number": torch.tensor(3.0),
    "bools": torch.tensor([True, False]),
    "bfloat16": torch.randn(5).bfloat16(),
    "whole numbers": torch.arange(5),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("large", [False, True])
def test_a_tensor_comes_as_it_lies_in_memory(name: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels, "LARGE", 0 if large else 2**30)
    x, numbers = TENSORS[name], parcels.Numbers()
    parcel = parcels.pack({"x": x}, numbers)
    assert bool(parcel.tensors) is large
    sent = {n: parcels.put_together(*parcels.take_apart(numbers.tensors[n])) for n in parcel.tensors}
    found = parcels.unpack(parcel.content, parcel.buffers, sent.__getitem__)["x"]
    assert torch.equal(found, x)
    assert (found.stride(), found.dtype, found.device) == (x.stride(), x.dtype, x.device)


@pytest.mark.parametrize("writable", [True, False])
def test_a_tensor_beside_its_pickle_is_nobody_elses_and_begins_where_pytorchs_own_do(writable: bool) -> None:
    x = torch.randn(100, 100)
    parcel = parcels.pack({"x": x})
    assert len(parcel.content) < 1000
    sent = []
    for buffer in parcel.buffers:  # what comes through a pipe may be written to, what comes from Ray may not
        sent.append(parcels.allocate(buffer.nbytes))
        sent[-1][:] = buffer
        if not writable:
            sent[-1].flags.writeable = False
    found = parcels.unpack(parcel.content, sent)["x"]
    assert found.data_ptr() % 64 == 0
    assert (found.data_ptr() == sent[0].ctypes.data) is writable
    found += 1
    assert torch.equal(found, x + 1)
    assert not torch.equal(found, x)


def test_a_large_tensor_has_one_number_however_often_and_under_whatever_object_it_comes() -> None:
    x, numbers = torch.randn(600, 600), parcels.Numbers()
    first, second = parcels.pack([x, x], numbers), parcels.pack([x.view(600, 600), x.clone()], numbers)
    assert first.tensors == (0,)
    assert second.tensors == (0, 1)
    assert len(first.content) < 1000


def test_functions_within_functions_modules_and_caches_come_along() -> None:
    layer = nn.Linear(3, 2)

    def outer(scale: float):  # type: ignore[no-untyped-def]
        @lru_cache
        def squared(x: float) -> float:
            return scale * x * x

        return lambda x: layer(x) * squared(2.0)

    found = parcels.unpack(parcels.pack(outer(3.0)).content)
    x = torch.ones(1, 3)
    assert torch.equal(found(x), outer(3.0)(x))


def test_a_pickle_that_lacks_a_tensor_says_so() -> None:
    parcel = parcels.pack(torch.randn(600, 600), parcels.Numbers())
    with pytest.raises(KeyError):
        parcels.unpack(parcel.content)


def test_cached_features_are_known_by_name_wherever_they_lie(cache: object) -> None:
    import numpy as np

    rows = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    path = feature_cache.cache.cache_folder() / "features" / "abc.npy"
    path.parent.mkdir(exist_ok=True)
    with feature_cache.cache.Growing(path, 3, "float32") as file:
        file.append(rows)
        file.finish()
    found = feature_cache.open_named("abc.npy", torch.device("cpu"))
    assert isinstance(found, Tensor)
    assert np.array_equal(found.numpy(), rows)
    assert feature_cache.name_of(found) == "abc.npy"
    assert feature_cache.name_of(found.clone()) is None
    assert feature_cache.open_named("def.npy", torch.device("cpu")) is None
