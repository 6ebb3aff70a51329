"""The error of a user's own part: a line that names the part, the error, and where in their file it is."""

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from neuroevo.config import READING, Config, at
from neuroevo.errors import InputError, Interrupted, RunError


@contextmanager
def on_users(c: Config, log: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Turn what a user's own part raises into an InputError that says where; `log` is told the whole traceback."""
    try:
        with at(**READING):
            yield
    except (InputError, Interrupted, RunError):
        raise
    except (Exception, SystemExit) as error:  # a user's code may fail in any way
        frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        found = []
        for key, name in users_parts(c.record()).items():
            module, _, function = name.partition(":")
            file = getattr(sys.modules.get(module), "__file__", None)
            own = [(code, line) for code, line in frames if file is not None and code.co_filename == file]
            of_part = any(
                code.co_qualname.partition(".")[0] == function for code, _ in own
            )  # others may share its file
            found += [(of_part, key, name, own[-1][1], file)] if own else []
        if not found:
            raise
        _, key, name, line, file = max(found, key=lambda each: each[0])
        log("".join(traceback.format_exception(error)).rstrip())
        said = f"{key}: {name} failed: {type(error).__name__}: {error} ({file}, line {line})"
        raise InputError(said) from None


def users_parts(value: Any, key: str = "") -> dict[str, str]:
    """Return the parts of a config that are a user's own, `module:function`, by their dotted keys."""
    if isinstance(value, str):
        module, colon, function = value.partition(":")
        own = colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))
        return {key.removesuffix(".name"): value} if own else {}
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    found: dict[str, str] = {}
    for inner, child in items:
        found |= users_parts(child, f"{key}.{inner}" if key else str(inner))
    return found
