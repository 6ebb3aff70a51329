"""What trackers have of a run, read back from their files: python readers.py RUN_DIR prints it as JSON."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768  # of the log format of W&B's files, LevelDB's


def tensorboard(folder: Path) -> dict[str, Any]:
    """Return scalars as {tag: [[step, value], ...]}, and the tags of texts and images, in the order of the files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [[each.step, each.value] for each in events.Scalars(tag)] for tag in tags["scalars"]}
    return {"scalars": scalars, "images": tags["images"], "tensors": tags["tensors"]}


def records(file: Path) -> Iterator[bytes]:
    """Yield the records of a file of W&B's: after 7 bytes, pieces in blocks, each behind a checksum, size and kind."""
    content, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # all of a record, or the last piece of it
            yield whole
            whole = b""


def wandb(folder: Path) -> dict[str, Any]:
    """Return the ids of runs, their lines in the order they were told, and the summary."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"ids": [], "names": [], "lines": [], "summary": {}, "config": {}}
    for file in sorted({path.resolve() for path in folder.glob("*/run-*.wandb")}):
        for content in records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            if record.HasField("run"):
                found["ids"].append(record.run.run_id)
                found["names"].append(record.run.display_name)
                found["config"] |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
            if record.HasField("history"):
                items = {each.key or each.nested_key[0]: each.value_json for each in record.history.item}
                found["lines"].append({key: json.loads(value) for key, value in items.items()})
            if record.HasField("summary"):
                items = {each.key or each.nested_key[0]: each.value_json for each in record.summary.update}
                found["summary"] |= {key: json.loads(value) for key, value in items.items()}
    return found


if __name__ == "__main__":
    run = Path(sys.argv[1])
    readers = {"tensorboard": tensorboard, "wandb": wandb}
    print(json.dumps({name: read(run / name) for name, read in readers.items() if (run / name).exists()}))
