import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuroevo.errors import InputError
from neuroevo.report import watch


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """Serve a folder's page while it is entered; the port."""
    with watch.server(str(folder), 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield serving.server_port
        finally:
            serving.shutdown()
            thread.join()


def get(port: int, path: str = "/", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def test_a_served_page_waits_and_then_follows_the_run_and_writes_nothing(bench_folder: Path, tmp_path: Path) -> None:
    source = bench_folder / "runs" / "hybrid" / "0-0"
    folder = tmp_path / "r"
    folder.mkdir()
    shutil.copy(source / "config.yaml", folder)
    lines = (source / "history.jsonl").read_text().splitlines(keepends=True)
    with served(folder) as port:
        status, text = get(port)
        assert status == 200
        assert "Waiting: " in text
        assert 'http-equiv="refresh"' in text
        (folder / "history.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
        assert "not finished: generation 2" in get(port)[1]
        (folder / "history.jsonl").write_text("".join(lines[:3]))
        text = get(port)[1]
        assert "not finished: generation 3" in text
        assert 'http-equiv="refresh"' in text
        assert get(port)[1] == text
        shutil.copy(source / "result.json", folder)
        (folder / "history.jsonl").write_text("".join(lines))
        assert "finished (generations) after 6 generations" in get(port)[1]
        assert get(port, "/run.log")[0] == 404
        assert get(port, host=f"localhost:{port}")[0] == get(port, host="127.0.0.1")[0] == 200
        assert get(port, host=f"rebound.example:{port}")[0] == 404
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "history.jsonl", "result.json"}


def test_a_page_is_drawn_again_only_when_a_file_has_changed(
    bench_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(watch.report, "render", lambda *given: drawn.append(given) or "page")
    latest = watch.Latest(bench_folder)
    assert [latest.page(), latest.page()] == ["page", "page"]
    assert len(drawn) == 1
    os.utime(bench_folder / "curves.csv")
    latest.page()
    assert len(drawn) == 2


def test_a_page_is_served_to_this_machine_alone(bench_folder: Path) -> None:
    with watch.server(str(bench_folder), 0) as serving:
        assert serving.server_address[0] == "127.0.0.1"
        with pytest.raises(InputError, match=r"--port: \d+: Address already in use"):
            watch.server(str(bench_folder), serving.server_port)


def test_a_folder_without_a_run_is_not_watched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run is there"):
        watch.server(str(tmp_path), 0)


def test_ctrl_c_ends_it_with_status_130(bench_folder: Path) -> None:
    command = [sys.executable, "-m", "neuroevo", "report", "--watch", str(bench_folder)]
    # A shell's background job has it ignored.
    with subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 130
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_port_needs_a_served_page(bench_folder: Path) -> None:
    command = [sys.executable, "-m", "neuroevo", "report", "--port", "8000", str(bench_folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert json.dumps(done.stderr).count("\\n") == 1
    assert "add --watch" in done.stderr
