import itertools
import logging
import socket
import ssl
import threading
import time
import urllib.error
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from neuroevo.errors import InputError
from neuroevo.networks import backbones, downloads

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in PROXIES:
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.upper(), raising=False)


def refuse(*args: object, **kwargs: object) -> None:
    raise socket.gaierror(-2, "no network in this test")


def test_a_server_that_listens_is_reached_and_none_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert downloads.reachable(f"http://127.0.0.1:{port}")
    assert not downloads.reachable(f"http://127.0.0.1:{port}")


def test_a_look_up_that_hangs_is_waited_for_no_longer_than_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang(*args: object, **kwargs: object) -> None:
        over.wait(30)
        refuse()

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(downloads, "PATIENCE", 0.1)
    began = time.monotonic()
    assert not downloads.reachable("https://nowhere.invalid")
    assert time.monotonic() - began < 5
    over.set()


def test_a_proxy_is_taken_at_its_word_unless_it_is_not_for_this_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert not downloads.reachable("https://nowhere.invalid")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert downloads.reachable("https://nowhere.invalid")
    monkeypatch.setenv("no_proxy", "nowhere.invalid")
    assert not downloads.reachable("https://nowhere.invalid")


@pytest.mark.parametrize("there", [True, False])
def test_the_hub_is_offline_where_it_can_not_be_reached_and_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch, there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(downloads, "reachable", lambda url: there)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    logger = logging.getLogger("huggingface_hub.utils._http")
    with pytest.raises(KeyError), downloads.hub():
        assert constants.HF_HUB_OFFLINE is not there
        logger.warning("Retrying in 1s [Retry 1/5].")
        raise KeyError
    assert constants.HF_HUB_OFFLINE is False
    assert not caplog.messages
    logger.warning("said again")
    assert caplog.messages == ["said again"]


def test_a_hub_that_is_set_offline_is_not_knocked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "reachable", pytest.fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with downloads.hub():
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is True


def test_weights_in_the_hubs_cache_load_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    torch.manual_seed(0)
    state = timm.create_model("resnet10t").state_dict()
    cfg = timm.get_pretrained_cfg("resnet10t")
    repository = tmp_path / f"models--{cfg.hf_hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(state, repository / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = backbones.build("timm/resnet10t", "default", 64, (8, 8, 3))
    assert torch.equal(found.body.get_parameter("conv1.0.weight"), state["conv1.0.weight"])


def test_a_hub_that_is_set_offline_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(InputError, match=r"without a network \(Cannot reach \S+\); give"):
        backbones.build("timm/resnet10t", "default", 64, (8, 8, 3))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"without a network \(HF_HUB_OFFLINE is set\); give"):
        backbones.build("timm/resnet10t", "default", 64, (8, 8, 3))


def chained(*errors: Exception) -> Exception:
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (urllib.error.URLError(socket.gaierror(-2, "Name not known")), "[Errno -2] Name not known"),
        (chained(ValueError("outer"), ConnectionRefusedError("refused")), "refused"),
        (chained(KeyError("a"), TimeoutError()), "TimeoutError"),
        (urllib.error.URLError(ssl.SSLCertVerificationError("bad")), None),
        (urllib.error.HTTPError("http://x", 404, "Not Found", None, None), None),  # type: ignore[arg-type]
        (RuntimeError("invalid hash value"), None),
        (OSError(28, "No space left on device"), None),
    ],
)
def test_a_lack_of_a_network_is_told_from_other_failures(error: Exception, why: str | None) -> None:
    assert downloads.connection_fault(error) == why
