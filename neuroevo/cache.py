"""The folder where features and notes on files are kept."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the user's cache folder for features, or the one that NEUROEVO_CACHE names."""
    return Path(os.environ.get("NEUROEVO_CACHE") or platformdirs.user_cache_dir("neuroevo"))
