"""The libraries' own downloads of weights: without a network they are told so at once, and in one line.

timm's hub asks again and again before it gives up, for most of a minute, and logs each time. So its server is knocked
at first; where nobody answers, it works offline, and what it has in its cache still loads.
"""

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

CONNECT, PATIENCE = 3.0, 10.0  # seconds for one address, and for all of them with their look-up
# What requests, httpx and the hub raise without a connection; by name, so that none is imported.
UNCONNECTED = {"ConnectError", "ConnectTimeout", "ConnectionError", "OfflineModeIsEnabled"}


@contextmanager
def hub() -> Iterator[None]:
    """Let timm's hub use its cache alone where its server can't be reached, and log no retries, while it is entered."""
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub.utils._http")
    before, level = constants.HF_HUB_OFFLINE, logger.level
    constants.HF_HUB_OFFLINE = before or not reachable(constants.ENDPOINT)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logger.setLevel(level)


def reachable(url: str) -> bool:
    """Tell whether a server can be connected to within seconds; a proxy on the way is taken at its word."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or {"http": 80}.get(parts.scheme, 443)
    proxies = getproxies()
    if host is None or ((parts.scheme in proxies or "all" in proxies) and not proxy_bypass(host)):
        return True
    answered = threading.Event()

    def knock() -> None:
        with suppress(OSError), socket.create_connection((host, port), CONNECT):
            answered.set()

    # In a thread, since the look-up of a name has no time limit of its own.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()


def connection_fault(error: BaseException) -> str | None:
    """Return why a download failed where it was for lack of a connection, None where it was for something else."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__ or error
    reasons = [one.reason for one in chain if isinstance(one, URLError) and isinstance(one.reason, BaseException)]
    if any(isinstance(one, ssl.SSLError | HTTPError) for one in (*chain, *reasons)):
        return None
    for one in (*reasons, *chain):
        kinds = {kind.__name__ for kind in type(one).__mro__}
        if "OfflineModeIsEnabled" in kinds:
            from huggingface_hub import constants

            return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else str(one).partition(": offline mode")[0]
        if isinstance(one, socket.gaierror | ConnectionError | TimeoutError) or kinds & UNCONNECTED or one in reasons:
            return " ".join(str(one).split())[:160] or type(one).__name__
    return None
