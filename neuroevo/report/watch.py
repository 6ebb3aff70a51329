"""A run or a bench to look at while it goes on: its page, served to this machine alone, drawn anew when it changed.

Nothing is written: the folder belongs to the run.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from neuroevo.errors import InputError
from neuroevo.report import page, report

REFRESH = 5  # seconds until the page loads itself again
HOST = "127.0.0.1"


class Latest:
    """A folder's page as it is now; it is drawn again only when a file of the folder has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()  # plots are drawn by one thread at a time
        self.state: Any = None  # no list: an empty one is a state
        self.content = ""

    def page(self) -> str:
        """Return the page; one that waits where nothing is recorded yet."""
        with self.lock:
            state = self.files()
            if state != self.state:
                try:
                    self.content = report.render(self.folder, None, REFRESH)
                except Exception as error:  # nothing yet, or damage of any kind: whoever looks gets an answer
                    said = str(error) if isinstance(error, InputError | OSError) else f"can't be shown ({error!r})"
                    note = page.note(f"Waiting: {said}")
                    return page.document(f"neuroevo: {self.folder.resolve().name}", note, REFRESH)
                self.state = state
            return self.content

    def files(self) -> list[tuple[str, int, int]]:
        """Return the folder's files by name, time and size, which tell whether one has changed."""
        found = []
        try:
            paths = sorted(self.folder.iterdir())
        except OSError:  # it was taken away
            return []
        for path in paths:
            try:
                about = path.stat()
            except OSError:  # a temporary one
                continue
            if path.is_file() and path.name != report.PAGE:
                found.append((path.name, about.st_mtime_ns, about.st_size))
        return found


def server(folder: str, port: int) -> ThreadingHTTPServer:
    """Return a server of a folder's page on a port of this machine (0: any that is free).

    InputError where no run or bench is there, or the port isn't to be had.
    """
    latest = Latest(report.find_folder(folder))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers.get("Host", "").partition(":")[0]  # of port 80 browsers say nothing
            # Under another name a web page elsewhere could have a browser read this one for it.
            if self.path != "/" or host not in (HOST, "localhost"):
                self.send_error(404)
                return
            content = latest.page().encode(errors="backslashreplace")
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise InputError(f"--port: {port}: {error.strerror}") from None
