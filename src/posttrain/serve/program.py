"""The server as a program: uvicorn, signals and a graceful stop. uvicorn is imported here alone."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from posttrain.errors import ConfigError, MissingDependency
from posttrain.serve.app import make_app
from posttrain.serve.gate import Gate
from posttrain.serve.served import Address
from posttrain.serve.service import Service

try:
    import uvicorn
except ImportError as error:
    raise MissingDependency("uvicorn", "serve") from error

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048

_LAST_SECONDS = 5
"""How long after the grace time connections may take to send the last of their answers."""


class _Server(uvicorn.Server):
    """uvicorn without its signals, which it would raise again after the stop, so that the process
    would not end with status 0.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(address: Address) -> socket.socket:
    """A socket at an address; `getsockname()` says which port it got.

    Raises:
        ConfigError: the address cannot be taken.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host.strip("[]"), address.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {address.host} port {address.port}: {error.strerror or error}; "
            "choose another with --port (0 takes a free one)"
        ) from error
    return listener


def serve(
    service: Service,
    address: Address,
    listener: socket.socket,
    *,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests until SIGTERM or SIGINT, then let running ones finish.

    After `limits.grace_seconds`, or at a second signal, they end with an error. Connections that
    are still open a little later, because their clients do not read, are closed.

    Args:
        listener: see `listen`. ready: called once requests are answered.
    """
    config = uvicorn.Config(
        make_app(service, address),
        log_level="warning",
        access_log=False,
        lifespan="on",
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(service.limits.grace_seconds) + _LAST_SECONDS,
        server_header=False,
    )
    server = _Server(config)

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if server.should_exit:
                service.end_answers()
                return
            service.drain()
            loop.call_later(service.limits.grace_seconds, service.end_answers)
            server.should_exit = True

        for number in _SIGNALS:
            loop.add_signal_handler(number, stop)
        task = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if server.started:
            ready()
        await task

    asyncio.run(run())


class ServerThread:
    """An application behind HTTP, in a thread of its own.

    Args:
        address: port 0 takes a free one.
    Attributes:
        url: where it answers.

    Raises:
        ConfigError: the address cannot be taken.
    """

    def __init__(self, app: Gate, address: Address) -> None:
        listener = listen(address)
        host = f"[{address.host}]" if ":" in address.host else address.host
        self.url = f"http://{host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Answer no more and end the thread."""
        self._server.should_exit = True
        self._thread.join()
