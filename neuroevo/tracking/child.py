"""A tracker's process: it reads messages, one JSON a line, and answers what the run needs to know.

The first message is `{name, options, run}`. Then come `{line}` for a generation each and `{result, plots}`; the end of
the input ends the run in the tracker. Answers are `{id, place, done}` once, `{done}` now and then, and `{failed}`.
"""

import json
import os
import time
from collections.abc import Iterable
from typing import Any, TextIO

from neuroevo.tracking.trackers import Run, find

QUIET = 1.0  # seconds from one answer about what was told to the next


def serve(messages: Iterable[str], answers: TextIO) -> None:
    """Tell a tracker what messages say, until there are no more."""

    def answer(**said: Any) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    lines = iter(messages)
    asked = json.loads(next(lines))
    tracker = find(asked["name"])(Run(**asked["run"]), **asked["options"])
    done, told, finished = tracker.done, time.monotonic(), False
    answer(id=tracker.id, place=tracker.place, done=done)
    for text in lines:
        message = json.loads(text)
        if "result" in message:
            tracker.result(message["result"], message["plots"])
            finished = message["result"].get("result/status") == "finished"
        elif message["line"]["generation"] > done:
            tracker.line(message["line"])
            done = message["line"]["generation"]
            if time.monotonic() - told > QUIET:
                told = time.monotonic()
                answer(done=done)
    tracker.close(finished)
    answer(done=done)


def main() -> None:
    """Serve whoever began this process, over its input and output; what libraries print goes nowhere."""
    nothing = os.open(os.devnull, os.O_RDWR)
    messages, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    try:
        serve(messages, answers)
    except Exception as error:  # a library may fail in any way
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        answers.write(json.dumps({"failed": said}) + "\n")
    answers.close()


if __name__ == "__main__":
    main()
