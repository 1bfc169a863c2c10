"""The routes. FastAPI is imported here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from posttrain.errors import MissingDependency
from posttrain.serve.answer import Answer
from posttrain.serve.chat import chat_answer
from posttrain.serve.completions import completion_answer
from posttrain.serve.gate import FAILED, Gate, Keys
from posttrain.serve.metrics import CONTENT_TYPE
from posttrain.serve.refusal import Refusal
from posttrain.serve.schema import ChatRequest, CompletionRequest, field_error
from posttrain.serve.search import AT, served_searches
from posttrain.serve.served import Address
from posttrain.serve.service import Service

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingDependency("fastapi", "serve") from error

_LOG = logging.getLogger(__name__)
_HEARTBEAT = b": at work\n\n"
CLIENT_CLOSED = 499
"""Status of a request whose client is gone; only the metrics see it."""


def make_app(service: Service, address: Address | None = None) -> Gate:
    """The ASGI application: routes, errors in OpenAI's shape, and the gate before them.

    Args:
        address: its keys are asked for.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.stop()

    options: dict[str, Any] = dict.fromkeys(("docs_url", "redoc_url", "openapi_url"))
    # Newer versions of FastAPI report to OpenTelemetry where it is set up; this server does not.
    options["telemetry"] = {"tracing": False, "metrics": False, "logs": False}
    app = FastAPI(title="posttrain", lifespan=lifespan, **options)
    _add_routes(app, service)
    _add_errors(app)
    keys = Keys((address or Address()).keys)
    return Gate(app, keys, service.limits.max_body_bytes, service.metrics)


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request, fields: ChatRequest) -> Response:
        make = lambda: chat_answer(service, fields)  # noqa: E731
        return await _respond(service, request, fields, fields.n, make)

    @app.post("/v1/completions")
    async def completions(request: Request, fields: CompletionRequest) -> Response:
        make = lambda: completion_answer(service, fields)  # noqa: E731
        return await _respond(service, request, fields, fields.n * len(fields.prompt), make)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": _models(service)}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        for entry in _models(service):
            if entry["id"] == name:
                return entry
        raise Refusal(404, f"there is no model {name[:200]!r}", param="model")

    @app.get("/health")
    async def health() -> Response:
        if service.is_draining:
            return JSONResponse({"status": "stopping"}, 503)
        if not service.worker.is_alive:
            return JSONResponse({"status": "the engine has stopped"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(_metrics(service), media_type=CONTENT_TYPE)


def _models(service: Service) -> list[dict[str, Any]]:
    base = service.model.name
    entry = {"object": "model", "created": service.created, "owned_by": "posttrain"}
    length = {"max_model_len": service.model.context_length}
    models = []
    for name in (base, *service.model.adapters):
        parent = {} if name == base else {"parent": base}
        names = [name, *(f"{name}{AT}{search}" for search in served_searches())]
        models += [{"id": full_name, **entry, **length, **parent} for full_name in names]
    return models


def _metrics(service: Service) -> str:
    worker, started = service.worker, service.metrics.started
    gauges: Mapping[str, tuple[str, float]] = {
        "posttrain_open_samples": ("Completions that run or wait.", service.num_samples),
        "posttrain_open_requests": ("Requests in the engine.", worker.num_open),
        "posttrain_engine_steps": ("Steps of the engine.", worker.steps),
        "posttrain_engine_failures": ("Steps of the engine that failed.", worker.failures),
        "posttrain_prefix_bytes": (
            "Keys and values that are held for later prompts.",
            getattr(service.model.engine, "num_prefix_bytes", 0),
        ),
        "posttrain_uptime_seconds": ("Seconds since the start.", time.time() - started),
    }
    return service.metrics.text(gauges, getattr(service.model.engine, "stats", None))


# -- answers


async def _respond(
    service: Service,
    request: Request,
    fields: ChatRequest | CompletionRequest,
    count: int,
    make: Callable[[], Awaitable[Answer]],
) -> Response:
    """Hold places in the queue while an answer is made and sent."""
    places = contextlib.ExitStack()
    places.enter_context(service.places(request.scope["state"]["owner"], count))
    started = time.monotonic()
    try:
        answer = await make()
    except BaseException:
        places.close()
        raise
    if fields.stream:
        usage = fields.stream_options is not None and fields.stream_options.include_usage
        parts = _events(service, answer, usage=usage, started=started)
        return _Stream(parts, lambda: _end(service, answer, places, started))
    try:
        return JSONResponse(await _until_gone(request, answer.whole()))
    except _Gone:
        service.metrics.aborted.add()
        return Response(status_code=CLIENT_CLOSED)
    finally:
        _end(service, answer, places, started)


def _end(service: Service, answer: Answer, places: contextlib.ExitStack, started: float) -> None:
    """Give the places back and count what was done."""
    places.close()
    metrics, counts = service.metrics, answer.counts
    for kind in ("prompt", "completion", "discarded"):
        metrics.tokens.add(getattr(counts, kind), kind=kind)
    metrics.duration.observe(time.monotonic() - started)


class _Gone(Exception):
    """The client has closed the connection."""


async def _until_gone(request: Request, answer: Awaitable[Any]) -> Any:
    """The answer, unless the client goes away first; the work is then cancelled.

    Raises:
        _Gone: the client is gone.
    """
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _Gone
    finally:
        for waiting in (task, gone):
            waiting.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Stream(StreamingResponse):
    """Server-sent events. `end` runs when it is over, whether it began or not."""

    def __init__(self, events: AsyncGenerator[bytes], end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events, self._end = events, end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # By later versions a response learns only by sending that its client is gone.
        scope = {**scope, "asgi": {**scope.get("asgi", {}), "spec_version": "2.3"}}
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            self._end()


async def _events(
    service: Service, answer: Answer, *, usage: bool, started: float
) -> AsyncGenerator[bytes]:
    """An answer's parts as server-sent events; an error is one event, and ends the stream."""
    has_text = False
    try:
        async with contextlib.aclosing(answer.parts()) as parts:
            async for part in parts:
                if part is None:
                    yield _HEARTBEAT
                    continue
                if not has_text and _shows_text(part):
                    has_text = True
                    service.metrics.first_token.observe(time.monotonic() - started)
                yield _event(part | {"usage": None} if usage else part)
        if usage:
            yield _event(answer.part([], usage=answer.usage()))
        yield b"data: [DONE]\n\n"
    except Refusal as refusal:
        yield _event(refusal.body)
    except (asyncio.CancelledError, GeneratorExit):
        service.metrics.aborted.add()
        raise
    except Exception:
        _LOG.exception("an answer failed")
        yield _event(Refusal(500, FAILED).body)


def _shows_text(part: dict[str, Any]) -> bool:
    choices = part["choices"]
    return any(c.get("text") or c.get("delta", {}).get("content") for c in choices)


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


# -- errors


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "")
        if "json" not in kind.lower():
            message = f"the header Content-Type is {kind[:100]!r}; it must be application/json"
            return await refused(request, Refusal(400, message, code="content_type"))
        param, message = field_error(error.errors())
        return await refused(request, Refusal(400, message, param=param))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path[:200]}: {error.detail}"
        headers = dict(error.headers or {})
        return await refused(request, Refusal(error.status_code, message, headers=headers))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return await refused(request, Refusal(500, FAILED))  # the gate logs it
