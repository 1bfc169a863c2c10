"""The server as a program: uvicorn, signals and a graceful stop. uvicorn is imported here alone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

from posttrain.errors import ConfigError, MissingDependency
from posttrain.serve.app import make_app
from posttrain.serve.served import Address
from posttrain.serve.service import Service

try:
    import uvicorn
except ImportError as error:
    raise MissingDependency("uvicorn", "serve") from error

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048


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

    After `limits.grace_seconds`, or at a second signal, they are aborted.

    Args:
        listener: see `listen`. ready: called once requests are answered.
    """
    config = uvicorn.Config(
        make_app(service, address),
        log_level="warning",
        access_log=False,
        lifespan="on",
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(service.limits.grace_seconds)),
        server_header=False,
    )
    server = _Server(config)

    def stop() -> None:
        server.force_exit = server.should_exit
        service.is_draining = True
        server.should_exit = True

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, stop)
        task = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if server.started:
            ready()
        await task

    asyncio.run(run())
