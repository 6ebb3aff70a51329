"""The meaning of a name: that a folder is a split, a file an image, or that a system left either behind."""

import os
import re
import unicodedata
from collections.abc import Collection, Sequence
from functools import cache

from neuroevo.data.pictures import FORMATS

SPLITS = ("train", "validation", "test")
LAYOUT = "<root>/train/<class>/ and <root>/test/<class>/, or <root>/<class>/"

WORDS = {
    "train": "trainval|traindev|training|train|trn",
    "validation": "validation|validate|valid|val|evaluation|eval|development|dev",
    "test": "testing|test|tst",
}
# Words about a split's name that say nothing.
FILLER = (
    "images?|imgs?|pictures?|pics?|photos?|files?|folders?|dirs?|director(?:y|ies)|data|datasets?|sets?|subsets?|"
    "splits?|parts?|samples?|seg|cls|classification|classes|the|my|new|all|raw|final|jpe?gs?|pngs?"
)
NAMES = {split: re.compile(f"(?:{FILLER})*(?:{words})(?:{FILLER})*") for split, words in WORDS.items()}
PARTS = re.compile("(?:folds?|cv|kfold|splits?|parts?|subsets?|sets?|batch|batches|chunks?|shards?)")

# What systems leave behind beside images; nobody means these.
JUNK = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "@eadir",
    "@recycle",
    "#recycle",
    "#snapshot",
    "@recently-snapshot",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
    "node_modules",
}
DOTTED = {
    ".ds_store",
    ".appledouble",
    ".spotlight-v100",
    ".fseventsd",
    ".temporaryitems",
    ".documentrevisions-v100",
    ".thumbnails",
    ".cache",
    ".picasaoriginals",
    ".ipynb_checkpoints",
    ".venv",
    ".idea",
    ".vscode",
    ".dvc",
    ".svn",
    ".hg",
}
JUNK_ENDS = ("@synoeastream", "@synoresource", ":zone.identifier")


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of image files: of the formats that are read, and .npy."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    return frozenset({".npy", ".mpo"} | {end for end, name in known if name in Image.OPEN and name in FORMATS})


def is_image(name: str) -> bool:
    """Tell by its suffix, in any case, whether a file is an image."""
    return os.path.splitext(name)[1].lower() in suffixes()


def is_junk(name: str) -> bool:
    """Tell whether a file or folder is left behind by a system, or hidden."""
    return name.startswith(".") or name.casefold() in JUNK or name.casefold().endswith(JUNK_ENDS)


def is_hidden(name: str) -> bool:
    """Tell whether somebody may have hidden a file or folder on purpose: no system is known to leave such a one."""
    lower = name.casefold()
    return name.startswith(".") and lower not in DOTTED and not lower.startswith(("._", ".trash", ".git", ".nfs"))


def role(name: str) -> tuple[str, str] | None:
    """Return the split that a folder's name speaks of, and its other words ("" for none); None where it names no split.

    Train2017, Training, seg_train and images-train are the train split and no more; cats_train says cats besides.
    """
    plain = unicodedata.normalize("NFKC", name)
    plain_letters = letters(plain)
    for split, pattern in NAMES.items():
        if pattern.fullmatch(plain_letters):
            return split, ""
    words = re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z0-9])", " ", plain).casefold())
    about = {word: split for word in words for split in SPLITS if re.fullmatch(WORDS[split], word)}
    if len(set(about.values())) != 1:
        return None
    return next(iter(about.values())), " ".join(word for word in words if word and word not in about)


def letters(name: str) -> str:
    """Return the letters of a name, in lower case."""
    return re.sub(r"[\W\d_]+", "", name.casefold())


def likeness(name: str) -> str:
    """Return a name without case, spaces and marks, so that similar names are equal."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def all_in(names: Sequence[str], classes: Collection[str]) -> bool:
    """Tell whether there are names, and all of them are those of classes."""
    return bool(names) and all(unicodedata.normalize("NFC", name) in classes for name in names)
