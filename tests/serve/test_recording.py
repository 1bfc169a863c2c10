"""The chat endpoint of agents that own their loop, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest

from posttrain.episodes.drive import drive
from posttrain.episodes.recording import Access, RecordedAgent
from posttrain.errors import EpisodeError
from posttrain.serve.recording import RecordingServer
from posttrain.types import Example, Sample, Sampling, Trace

httpx = pytest.importorskip("httpx", reason="tests of the server need httpx")

WORDS = ["red", "green", "blue", "black"]


class Echo:
    """Writes the colour that a prompt names."""

    context_length = None
    stop_ids: frozenset[int] = frozenset()
    weights_version = 0

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def generate(self, requests: Any) -> list[list[Sample]]:
        return [[self.sample(request)] for request in requests]

    def sample(self, request: Any) -> Sample:
        text = str(self.tokenizer.decode(request.prompt_ids))
        word = next((w for w in WORDS if w in text), "none")
        ids = list(self.tokenizer(f"{word}!", add_special_tokens=False)["input_ids"])
        return Sample(ids, [-0.5] * len(ids), [-0.5] * len(ids), "stop")


def post(access: Access, body: Any, *, path: str = "/chat/completions", key: str = "") -> Any:
    headers = {"Authorization": f"Bearer {key or access.key}"}
    return httpx.post(access.base_url + path, headers=headers, json=body, timeout=20)


def asked(word: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Say {word}."}]


@pytest.fixture
def tokenizer(tiny_folder: Any) -> Any:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tiny_folder)
    loaded.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return loaded


def run(tokenizer: Any, program: Any, words: list[str], engine: Any = None) -> list[Trace]:
    with RecordingServer() as endpoint:
        episode = RecordedAgent(tokenizer, program, endpoint)
        programs = [
            lambda ask, word=word: episode(Example(asked(word), answer=word), ask) for word in words
        ]
        return drive(programs, engine or Echo(tokenizer), sampling=Sampling(max_tokens=20))


def test_many_agents_in_threads(tokenizer: Any) -> None:
    """Each has a key of its own, and its trace has its own turns."""

    def agent(example: Example, access: Access) -> float:
        models = httpx.get(
            access.base_url + "/models", headers={"Authorization": f"Bearer {access.key}"}
        ).json()
        assert [m["id"] for m in models["data"]] == [access.model]
        messages = list(example.prompt)
        for _ in range(2):
            body = post(access, {"model": access.model, "messages": messages}).json()
            (choice,) = body["choices"]
            assert choice["finish_reason"] == "stop"
            messages += [choice["message"], {"role": "user", "content": "Again."}]
        assert body["usage"]["total_tokens"] == sum(
            body["usage"][k] for k in ("prompt_tokens", "completion_tokens")
        )
        return float(choice["message"]["content"] == f"{example.answer}!")

    traces = run(tokenizer, agent, WORDS)
    for trace in traces:
        assert (trace.reward, trace.error, len(trace.turns)) == (1.0, None, 2)
        first, second = trace.turns
        assert second.context_ids[: len(first.ids)] == first.ids


def test_the_official_client_with_and_without_a_stream(tokenizer: Any) -> None:
    openai = pytest.importorskip("openai", reason="not installed")

    async def agent(example: Example, access: Access) -> None:
        async with openai.AsyncOpenAI(base_url=access.base_url, api_key=access.key) as client:
            whole = await client.chat.completions.create(
                model=access.model, messages=example.prompt, temperature=0.3, user="me"
            )
            assert whole.choices[0].message.content == "red!"
            stream = await client.chat.completions.create(
                model=access.model, messages=example.prompt, stream=True
            )
            parts = [part async for part in stream]
            said = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
            assert said == "red!" and parts[-1].usage.completion_tokens > 0

    (trace,) = run(tokenizer, agent, ["red"])
    assert trace.error is None and len(trace.turns) == 2


def test_refusals(tokenizer: Any) -> None:
    held: list[Access] = []

    def agent(example: Example, access: Access) -> None:
        held.append(access)
        good = {"messages": asked("red")}
        for status, body, where in (
            (401, good, {"key": "wrong"}),
            (404, good, {"path": "/completions"}),
            (400, [1], {}),
            (400, {}, {}),
            (400, {"messages": "red"}, {}),
            (400, {"messages": asked("red"), "n": 2}, {}),
            (400, {"messages": asked("red"), "max_tokens": 0.5}, {}),
            (400, {"messages": asked("red"), "tools": [1]}, {}),
            (400, {"messages": [*asked("red"), {"role": "assistant", "content": "b"}]}, {}),
        ):
            answer = post(access, body, **where)
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["message"]
        broken = httpx.post(
            access.base_url + "/chat/completions",
            headers={"Authorization": f"Bearer {access.key}"},
            content=b"{",
        )
        assert broken.status_code == 400

    with RecordingServer() as endpoint:
        episode = RecordedAgent(tokenizer, agent, endpoint)
        example = Example(asked("red"))
        (trace,) = drive([lambda ask: episode(example, ask)], Echo(tokenizer))
        assert isinstance(trace, Trace) and trace.error is None and trace.turns == []
        # Its key has ended with it.
        assert post(held[0], {"messages": asked("red")}).status_code == 401


def test_an_agent_that_leaves_ends_its_request(tokenizer: Any) -> None:
    """A request that nobody waits for any more is dropped, and the episode goes on."""
    waits = Waiting(tokenizer)

    def agent(example: Example, access: Access) -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                access.base_url + "/chat/completions",
                headers={"Authorization": f"Bearer {access.key}"},
                json={"messages": asked("red")},
                timeout=httpx.Timeout(20, read=2),
            )
        for _ in range(2000):
            if waits.aborted:
                return
            time.sleep(0.01)

    (trace,) = run(tokenizer, agent, ["red"], waits)
    assert waits.aborted == [0] and trace.error is None and trace.turns == []


class Waiting(Echo):
    """An open engine that never finishes."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.submitted = 0
        self.aborted: list[int] = []

    def submit(self, request: Any, on_tokens: Any = None) -> int:
        self.submitted += 1
        return 0

    def step(self) -> list[Any]:
        time.sleep(0.01)
        return []

    def abort(self, ticket: int) -> None:
        self.aborted.append(ticket)


def test_requests_of_an_ended_episode_are_cancelled(tokenizer: Any) -> None:
    waits = Waiting(tokenizer)
    statuses: list[int] = []

    async def agent(example: Example, access: Access) -> None:
        def ask() -> None:
            statuses.append(post(access, {"messages": asked("red")}).status_code)

        thread = threading.Thread(target=ask)
        thread.start()
        threads.append(thread)
        while not waits.submitted:
            await asyncio.sleep(0.01)

    threads: list[threading.Thread] = []
    with RecordingServer() as endpoint:
        episode = RecordedAgent(tokenizer, agent, endpoint)
        drive([lambda ask: episode(Example(asked("red")), ask)], waits)
        threads[0].join(20)
    assert statuses == [503] and waits.aborted == [0]


def test_an_episode_whose_event_loop_is_gone() -> None:
    with RecordingServer() as server, contextlib.ExitStack() as held:

        async def main() -> Access:
            return held.enter_context(server.open(None))  # type: ignore[arg-type]

        assert post(asyncio.run(main()), {"messages": asked("red")}).status_code == 503


def test_a_server_that_does_not_run(tokenizer: Any) -> None:
    async def main() -> None:
        with pytest.raises(EpisodeError), RecordingServer().open(None):  # type: ignore[arg-type]
            pass

    asyncio.run(main())
