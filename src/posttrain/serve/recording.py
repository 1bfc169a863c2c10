"""A chat endpoint for agents that own their loop: one key per episode, whose requests become the
episode's trace (`episodes.recording`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from posttrain.episodes.recording import Access, Answer, Recorder
from posttrain.errors import EpisodeError, PosttrainError
from posttrain.serve.gate import Gate, Receive, Scope, Send
from posttrain.serve.metrics import Metrics
from posttrain.serve.program import ServerThread
from posttrain.serve.refusal import Refusal, unsupported
from posttrain.serve.served import Address
from posttrain.serve.service import new_id

_CHAT = "/v1/chat/completions"
_MAX_BODY_BYTES = 64 << 20


@dataclass(eq=False, slots=True)
class _Open:
    """An episode that is served: its recorder, which works in the episode's event loop."""

    recorder: Recorder
    loop: asyncio.AbstractEventLoop
    tasks: set[asyncio.Task[Answer]] = field(default_factory=set)

    async def answer(self, fields: _ChatFields) -> Answer:
        """In the episode's loop; ended with the episode."""
        task = asyncio.ensure_future(
            self.recorder.answer(fields.messages, fields.tools, fields.max_tokens)
        )
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return await task


class _Episodes:
    """The episodes by their keys, of which the digests alone are held. Asked by two threads."""

    def __init__(self) -> None:
        self._by_owner: dict[str, _Open] = {}
        self._lock = threading.Lock()

    def add(self, key: str, episode: _Open) -> None:
        with self._lock:
            self._by_owner[_digest(key.encode())] = episode

    def remove(self, key: str) -> None:
        with self._lock:
            del self._by_owner[_digest(key.encode())]

    def owner(self, header: bytes | None) -> str | None:
        """See `Keys.owner`."""
        scheme, _, key = (header or b"").partition(b" ")
        owner = _digest(key.strip())
        with self._lock:
            return owner if scheme.lower() == b"bearer" and owner in self._by_owner else None

    def of(self, owner: str) -> _Open:
        """The episode of an owner.

        Raises:
            Refusal: it has ended since the key was checked.
        """
        with self._lock:
            episode = self._by_owner.get(owner)
        if episode is None:
            raise Refusal(401, "the episode of this key has ended", code="invalid_api_key")
        return episode


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


class RecordingServer:
    """Serves recorders over HTTP, from `__enter__` to `__exit__`. One serves all episodes of a run.

    Args:
        host: where it listens. port: 0 takes a free one.
        public_url: how agents reach it, where that is another (from a container, by a tunnel).
        model: the name that requests give.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        public_url: str = "",
        model: str = "policy",
    ) -> None:
        # Every request carries the key of its episode, so that no address is open to all.
        self.address = Address(host, port, keys=(secrets.token_urlsafe(24),))
        self.model = model
        self.public_url = public_url
        self._episodes = _Episodes()
        self._thread: ServerThread | None = None

    def __enter__(self) -> RecordingServer:
        app = _App(self._episodes, self.model)
        gate = Gate(app, self._episodes, _MAX_BODY_BYTES, Metrics())
        self._thread = ServerThread(gate, self.address)
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    @contextlib.contextmanager
    def open(self, recorder: Recorder) -> Iterator[Access]:
        """Serve a recorder under a key of its own. Called in the episode's event loop.

        Raises:
            EpisodeError: the server has not been entered.
        """
        if self._thread is None:
            raise EpisodeError("the recording server does not run; use it in a `with` statement")
        key = secrets.token_urlsafe(24)
        episode = _Open(recorder, asyncio.get_running_loop())
        self._episodes.add(key, episode)
        try:
            yield Access((self.public_url or self._thread.url) + "/v1", key, self.model)
        finally:
            self._episodes.remove(key)
            for task in episode.tasks:
                task.cancel()


class _App:
    """The routes: chat completions and the list of models."""

    def __init__(self, episodes: _Episodes, model: str) -> None:
        self._episodes = episodes
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = (scope["method"], scope["path"])
        if route == ("GET", "/v1/models"):
            models = [{"id": self._model, "object": "model", "owned_by": "posttrain"}]
            await _send_json({"object": "list", "data": models}, send)
        elif route == ("POST", _CHAT):
            await self._chat(scope, receive, send)
        else:
            raise Refusal(404, f"{route[0]} {route[1][:200]}: this endpoint has POST {_CHAT}")

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        episode = self._episodes.of(scope["state"]["owner"])
        body = (await receive())["body"]  # the gate has read it as a whole
        fields = _chat_fields(body)
        answer = await _until_gone(episode, fields, receive)
        if answer is None:
            return
        if fields.stream:
            await _send_events(self._parts(answer), send)
        else:
            await _send_json(self._whole(answer), send)

    def _whole(self, answer: Answer) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": {**answer.message, "refusal": None},
            "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        head = self._head("chat.completion")
        return {**head, "choices": [choice], "usage": _usage(answer)}

    def _parts(self, answer: Answer) -> list[dict[str, Any]]:
        """The answer as a stream of one delta: calls are known when they are whole."""
        delta = dict(answer.message)
        if "tool_calls" in delta:
            delta["tool_calls"] = [{"index": i, **c} for i, c in enumerate(delta["tool_calls"])]
        head = self._head("chat.completion.chunk")
        first = {"index": 0, "delta": delta, "finish_reason": None}
        last = {"index": 0, "delta": {}, "finish_reason": answer.finish_reason}
        return [
            {**head, "choices": [first]},
            {**head, "choices": [last]},
            {**head, "choices": [], "usage": _usage(answer)},
        ]

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": new_id("chatcmpl"),
            "object": kind,
            "created": int(time.time()),
            "model": self._model,
        }


def _usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.num_prompt_tokens, answer.num_completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


# ---- requests


@dataclass(frozen=True, slots=True)
class _ChatFields:
    """What is read of a request. All else says how to sample, which is the run's."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    max_tokens: int | None
    stream: bool


def _chat_fields(body: bytes) -> _ChatFields:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {error}") from error
    if not isinstance(request, dict):
        raise Refusal(400, "the body is no JSON object")
    if request.get("n") not in (None, 1):
        raise unsupported("n", f"n is {request['n']!r:.20}; an episode samples one completion")
    tools = [] if request.get("tool_choice") == "none" else _objects(request, "tools")
    max_tokens = request.get("max_completion_tokens") or request.get("max_tokens")
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
        raise Refusal(400, "max_tokens must be a whole number above 0", param="max_tokens")
    stream = bool(request.get("stream"))
    return _ChatFields(_objects(request, "messages"), tools, max_tokens, stream)


def _objects(request: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    values = request.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise Refusal(400, f"{name} must be a list of objects", param=name)
    return values


async def _until_gone(episode: _Open, fields: _ChatFields, receive: Receive) -> Answer | None:
    """The answer; None where the client has gone, which ends the work.

    Raises:
        Refusal: what the recorder refuses, or that the episode has ended.
    """
    answer = episode.answer(fields)
    try:
        future = asyncio.run_coroutine_threadsafe(answer, episode.loop)
    except RuntimeError as error:  # its loop is closed
        answer.close()
        raise Refusal(503, "the episode has ended", code="episode") from error
    work: asyncio.Future[Any] = asyncio.wrap_future(future)
    gone: asyncio.Future[Any] = asyncio.ensure_future(receive())
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    except PosttrainError as error:
        raise Refusal(400, str(error), code="episode") from error
    except asyncio.CancelledError as error:
        if not work.done():
            raise
        raise Refusal(503, "the episode has ended", code="episode") from error
    finally:
        work.cancel()
        gone.cancel()


# ---- answers


async def _send_json(value: Any, send: Send) -> None:
    content = json.dumps(value, ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _send_events(parts: list[dict[str, Any]], send: Send) -> None:
    events = [*(json.dumps(part, ensure_ascii=False) for part in parts), "[DONE]"]
    content = "".join(f"data: {event}\n\n" for event in events).encode()
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
