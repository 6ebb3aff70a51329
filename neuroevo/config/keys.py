"""The key in the config of a function's option, for errors that come out of the library."""

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from neuroevo.errors import InputError

READING: dict[str, str] = {  # options of reading images, which may fail at any time, by config key
    "broken": "data.broken",
    "max_pixels": "data.max_pixels",
    "augment": "data.augment",
    "channels": "backbone.channels",
    "dtype": "features.dtype",
}


@contextmanager
def at(path: str = "", /, **keys: str) -> Iterator[None]:
    """Have an InputError that comes out of the library name keys of the config in place of a function's options.

    An option is what `keys` say, or the one of that name under `path`; without a path others are left as they are.
    """
    try:
        yield
    except InputError as error:
        error.rename(lambda option: keys.get(option) or (f"{path}.{option}" if path else None))
        raise


def under(path: str, lines: Iterable[str], options: Collection[str]) -> tuple[str, ...]:
    """Return lines of the library with `path` before those that begin with one of the options and a colon."""
    return tuple(f"{path}.{line}" if re.split(r"\.|: ", line)[0] in options else line for line in lines)
