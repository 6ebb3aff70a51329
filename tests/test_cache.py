from pathlib import Path

import pytest

from neuroevo.cache import cache_folder


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("NEUROEVO_CACHE")
    assert cache_folder().name == "neuroevo"
