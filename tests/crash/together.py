"""Let commands work beside each other on one folder or one cache, as real processes.

    python tests/crash/together.py [ROUNDS]      (3)

In each round: two runs are begun in one folder at once, and two benches; one has it, the other is told in a line. Two
runs of folders of their own make the same cached features at once; they are computed once. `report --watch` is asked
all the time beside a run: each answer is a page, and none is of a path or name that isn't its own, be it relative,
encoded or a link. What comes of each is compared with one that was alone. Exit status 1 where anything is wrong.
"""

import argparse
import http.client
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from victims import BENCHED, RESUME, SLOW, VICTIMS, Command, Running, contents, copy, differences, prepare, run

OTHERS = ["/../config.yaml", "/..%2f..%2fetc/passwd", "/%2e%2e/config.yaml", "//etc/passwd", "/run.log", "/config.yaml",
          "/linked", "/linked/passwd", "/?/../run.log", "/report.html", "/plots/", "/checkpoints/", "http://elsewhere/",
          "/%00", "/" + "a" * 5000]  # fmt: skip
HOSTS = ["elsewhere.example", "127.0.0.1.elsewhere.example", "localhost.elsewhere.example", "", "[::1]", "0.0.0.0"]


def both(folder: Path, one: Command, other: Command) -> list[tuple[int | None, str]]:
    """Begin two commands at once in a folder, and return how each ended and what it said."""
    begun = [Running(command, folder, log=f"{i}") for i, command in enumerate((one, other))]
    return [each.wait() for each in begun]


def one_has_it(folder: Path, command: list[str]) -> list[str]:
    """Begin a command twice at once in one folder; return what is wrong with how they end."""
    ended = sorted(both(folder, command, command), key=lambda end: end[0] or 0)
    (first, said), (second, text) = ended
    lines = [line for line in text.splitlines() if line.startswith("neuroevo: ")]
    wrong = [] if (first, second) == (0, 2) else [f"ended with {first} and {second}: {said[-300:]} {text[-300:]}"]
    told = lines and ("in use by another process" in lines[0] or "already holds" in lines[0])
    return wrong + ([] if told else [f"told: {lines}"])


def one_cache(folder: Path) -> list[str]:
    """Begin two runs that need the same cached features; return what is wrong with how they end."""
    import json

    commands = [[name if word == "r" else word for word in run(base=SLOW)] for name in ("r", "s")]
    ended = both(folder, commands[0], commands[1])
    if any(status for status, _ in ended):
        return [text[-300:] for _, text in ended]
    made = [json.loads((folder / name / "result.json").read_text())["cost"]["backbone_samples"] for name in ("r", "s")]
    wrong = [] if sorted(made) == [0, 240] else [f"samples through the backbone: {made}"]
    one, other = ({k[2:]: v for k, v in contents(folder).items() if k.startswith(f"{name}/")} for name in ("r", "s"))
    return wrong + differences(one, other)[:5]


def ask(port: int, path: str = "/", host: str | None = None) -> tuple[int, str]:
    """Return the status and the text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text


def answers(port: int, running: Running) -> Iterator[tuple[int, str]]:
    """Yield the answers to all that is asked of a page while a run is at work."""
    while running.at_work():
        yield ask(port)
        time.sleep(0.02)


def beside_a_page(folder: Path) -> list[str]:
    """Watch a run by its page, and ask that for all that it must not give; return what is wrong."""
    running = Running(VICTIMS["run"].command, folder)
    while not (folder / "r" / "config.yaml").exists():
        time.sleep(0.01)
    (folder / "secret").mkdir()
    (folder / "secret" / "passwd").write_text("not yours")
    page = Running(["report", "r", "--watch"], folder, log="page")
    while "http://127.0.0.1:" not in (text := page.log.read_text() if page.log.exists() else "") and page.at_work():
        time.sleep(0.02)
    port = int(text.partition("http://127.0.0.1:")[2].split("/")[0].split()[0])
    asked = 0
    wrong = []
    for status, text in answers(port, running):
        asked += 1
        wrong += [] if status == 200 and "</html>" in text else [f"beside the run: {status} {text[:200]}"]
    status, said = running.wait()
    wrong += [f"the run left with {status}: {said[-300:]}"] if status else []
    wrong += [] if asked else ["nothing was asked while the run was at work"]
    (folder / "r" / "linked").symlink_to(folder / "secret")
    for path in OTHERS:
        status, text = ask(port, path)
        wrong += [f"{path[:40]}: {status}"] if status < 400 or "not yours" in text else []
    for host in HOSTS:
        status, text = ask(port, host=host)
        wrong += [f"as {host!r}: {status}"] if status < 400 else []
    wrong += [] if ask(port)[0] == 200 else ["no page at the end"]
    (folder / "r" / "linked").unlink()
    page.kill(0)
    shutil.rmtree(folder / "secret")
    return wrong


def main() -> int:
    """Let them work, and say what came of it."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("rounds", nargs="?", type=int, default=3)
    rounds, bad = made.parse_args().rounds, 0
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        source = prepare(VICTIMS["run"], root / "prepared")
        right: dict[str, dict[str, Any]] = {}
        for name, command in (("run", run()), ("bench", BENCHED)):
            alone = copy(source, root / f"{name} alone")
            status, text = Running(command, alone).wait()
            assert status == 0, text
            right[name] = contents(alone)
        for i in range(rounds):
            for name, meet, like in (
                ("two runs in one folder", lambda folder: one_has_it(folder, run()), "run"),
                ("two that go on with one run", go_on_twice, "run"),
                ("two benches in one folder", lambda folder: one_has_it(folder, BENCHED), "bench"),
                ("two runs with one cache", one_cache, None),
                ("a page beside a run", beside_a_page, "run"),
            ):
                folder = copy(source, root / f"{i} {name}")
                wrong = meet(folder)
                wrong += [] if like is None or wrong else differences(right[like], contents(folder))[:5]
                bad += bool(wrong)
                print(f"{i} {name}: {'; '.join(wrong) or 'right'}", flush=True)
    print(f"{rounds} rounds, {bad} wrong")
    return bool(bad)


def go_on_twice(folder: Path) -> list[str]:
    """Kill a run, and go on with it twice at once; return what is wrong with how they end."""
    running = Running(run(), folder)
    while running.at_work() and len(list((folder / "r").glob("checkpoints/*.h5"))) < 2:
        time.sleep(0.005)
    running.kill(0)
    return one_has_it(folder, RESUME)


if __name__ == "__main__":
    sys.exit(main())
