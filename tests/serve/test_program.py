"""The command `posttrain serve` as a process, driven by OpenAI's own client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
from adapter_folders import adapter_folder

openai = pytest.importorskip("openai", reason="tests of the protocol need OpenAI's client")
pydantic = pytest.importorskip("pydantic", reason="the server needs the extra serve")
httpx = pytest.importorskip("httpx", reason="tests of the server need httpx")
pytest.importorskip("uvicorn", reason="the server needs the extra serve")

KEY = "a-key-for-tests"
SAY: list[Any] = [{"role": "user", "content": "hello"}]


class Calculation(pydantic.BaseModel):
    """What an answer is held to."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    left: Literal[337, 12]
    operator: Literal["+", "-", "*"]
    right: Literal[51, 3]
    sure: bool


def start(model: Path | str, log: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    """A server that answers, and its address."""
    command = [sys.executable, "-m", "posttrain.cli", "serve", str(model), "--port", "0"]
    environment = {**os.environ, "POSTTRAIN_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--name", "tiny", *arguments], stderr=stream, env=environment
        )
    end = time.monotonic() + 240
    while "serving" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    words = log.read_text().split()
    return process, next(word for word in words if word.startswith("http://"))


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Any]:
    """`start` with a log in `tmp_path`; what still runs after the test is killed."""
    processes: list[subprocess.Popen[bytes]] = []

    def launched(model: Path | str, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
        process, address = start(model, tmp_path / "log", *arguments)
        processes.append(process)
        return process, address

    yield launched
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("serve") / "log"
    process, address = start(tiny_folder, log)
    try:
        yield address
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
    assert KEY not in log.read_text() and "Traceback" not in log.read_text()


@pytest.fixture
def client(server: str) -> Any:
    return openai.OpenAI(base_url=server, api_key=KEY, max_retries=0, timeout=60)


def metric(server: str, name: str) -> float:
    header = {"Authorization": f"Bearer {KEY}"}
    text = httpx.get(server.removesuffix("/v1") + "/metrics", headers=header).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def until(holds: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_models_are_listed(client: Any) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "tiny" and "tiny@majority_vote" in names
    assert client.models.retrieve("tiny@majority_vote").id == "tiny@majority_vote"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_chat_with_n_and_a_seed(client: Any) -> None:
    def texts(seed: int) -> list[str]:
        answer = client.chat.completions.create(
            model="tiny", messages=SAY, n=3, seed=seed, max_completion_tokens=20
        )
        assert answer.usage.completion_tokens <= 60
        return [choice.message.content for choice in answer.choices]

    first = texts(1)
    assert len(set(first)) == 3 and texts(1) == first != texts(2)


def test_a_stream_is_the_whole_answer(client: Any) -> None:
    fields = {"model": "tiny", "messages": SAY, "seed": 5, "max_tokens": 60, "n": 2}
    whole = client.chat.completions.create(**fields)
    texts, usage, chunks = ["", ""], None, 0
    for chunk in client.chat.completions.create(
        **fields, stream=True, stream_options={"include_usage": True}
    ):
        chunks += 1
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert usage == whole.usage and chunks > 20


def test_stop_strings(client: Any) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 60}
    for seed in range(20):  # random weights write random bytes
        fields["seed"] = seed
        text = client.completions.create(**fields).choices[0].text
        letters = [c for c in text[5:] if c.isascii() and c.isprintable()]
        if letters:
            break
    stop = letters[0]
    answer = client.completions.create(**fields, stop=[stop, "never there"])
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    parts = [c.choices[0].text for c in client.completions.create(**fields, stop=stop, stream=True)]
    assert "".join(parts) == answer.choices[0].text


def test_logprobs_of_chat_and_echo(client: Any) -> None:
    chat = client.chat.completions.create(
        model="tiny", messages=SAY, logprobs=True, top_logprobs=3, max_tokens=4, temperature=0
    )
    for token in chat.choices[0].logprobs.content:
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob, abs=1e-4)  # greedy
        assert len(token.top_logprobs) == 3
    echo = client.completions.create(
        model="tiny", prompt=[1, 70, 71, 72], echo=True, logprobs=1, max_tokens=1
    )
    logprobs = echo.choices[0].logprobs
    assert len(logprobs.tokens) == 5 and logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])
    greedy = client.completions.create(
        model="tiny", prompt=[1, 70, 71], logprobs=0, max_tokens=2, temperature=0
    )
    ids = (
        client.completions.create(
            model="tiny",
            prompt=[1, 70, 71],
            max_tokens=2,
            temperature=0,
            extra_body={"return_token_ids": True},
        )
        .choices[0]
        .token_ids
    )
    again = client.completions.create(
        model="tiny", prompt=[1, 70, 71, *ids], echo=True, logprobs=0, max_tokens=0
    )
    sampled = greedy.choices[0].logprobs.token_logprobs
    assert again.choices[0].logprobs.token_logprobs[3:] == pytest.approx(sampled, abs=1e-4)


def test_a_search(client: Any) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=SAY,
        max_tokens=10,
        extra_body={"search": {"name": "majority_vote", "num_samples": 4}},
    )
    assert answer.search["num_candidates"] == 4
    details = answer.usage.completion_tokens_details
    assert details.selected_tokens + details.discarded_tokens == answer.usage.completion_tokens
    vote = "tiny@majority_vote"
    again = client.chat.completions.create(model=vote, messages=SAY, max_tokens=10)
    cached = again.usage.prompt_tokens_details.cached_tokens  # all but the last, which is computed
    assert cached == again.usage.prompt_tokens - 1 == again.search["reused_tokens"]


def test_tools_are_called_and_their_results_read(launch: Any) -> None:
    """An agent's loop with the embedded tool model: 337 * 51 by the tool `calculate`."""
    from posttrain.tasks.calculator import CALCULATE, Calculator

    process, address = launch("embedded-tools")
    client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0, timeout=60)
    fields: dict[str, Any] = {"model": "tiny", "tools": [CALCULATE], "max_tokens": 100}
    messages: list[Any] = [{"role": "user", "content": "What is 337*51?"}]
    answer = client.chat.completions.create(messages=messages, n=16, seed=1, **fields)
    choices = [c for c in answer.choices if c.finish_reason == "tool_calls"]
    assert choices, "the model calls the tool in about half of its answers"
    text = [c for c in answer.choices if c.finish_reason == "stop"]
    assert all(c.message.tool_calls is None and c.message.content for c in text)
    streamed: dict[int, str] = {}
    for chunk in client.chat.completions.create(
        messages=messages, n=16, seed=1, stream=True, **fields
    ):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                streamed[choice.index] = call.function.arguments
    assert streamed == {c.index: c.message.tool_calls[0].function.arguments for c in choices}
    (call,) = choices[0].message.tool_calls
    assert call.function.name == "calculate"
    result = Calculator().calculate(**json.loads(call.function.arguments))
    messages += [
        choices[0].message.model_dump(include={"role", "content", "tool_calls"}),
        {"role": "tool", "tool_call_id": call.id, "content": str(result)},
    ]
    answer = client.chat.completions.create(messages=messages, temperature=0, **fields)
    process.send_signal(signal.SIGTERM)
    assert answer.choices[0].message.content == f"#### {337 * 51}" == f"#### {result}"
    assert process.wait(60) == 0


def test_adapters_by_name(launch: Any, tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters need the extra peft")
    red, blue = (adapter_folder(tiny_folder, tmp_path / str(i), seed=i) for i in (1, 2))
    flags = ["--adapter", f"red={red}", "--adapter", f"blue={blue}"]
    process, address = launch(tiny_folder, *flags)
    client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0, timeout=60)
    names = [model.id for model in client.models.list() if "@" not in model.id]
    assert names == ["tiny", "red", "blue"]

    def text(model: str, number: int) -> str:
        stream = client.chat.completions.create(
            model=model, messages=SAY, seed=number, max_tokens=60, stream=True
        )
        return "".join(part.choices[0].delta.content or "" for part in stream)

    jobs = [(name, number) for number in range(4) for name in names]
    one_by_one = [text(*job) for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        assert list(pool.map(lambda job: text(*job), jobs)) == one_by_one
    assert len(set(one_by_one)) == len(jobs)
    with pytest.raises(openai.NotFoundError) as unknown:
        text("green", 0)
    process.send_signal(signal.SIGTERM)
    assert "'red'" in str(unknown.value) and process.wait(60) == 0


def test_answers_are_json_of_a_schema(launch: Any) -> None:
    pytest.importorskip("llguidance", reason="forms of answers need the extra constrained")
    process, address = launch("embedded-tools")
    client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0, timeout=120)
    fields: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "What is 337*51?"}],
        "max_tokens": 120,
        "seed": 1,
    }
    parsed = client.chat.completions.parse(response_format=Calculation, n=8, **fields)
    for choice in parsed.choices:
        assert choice.finish_reason == "stop"
        assert choice.message.parsed == Calculation(**json.loads(choice.message.content))
    schema = Calculation.model_json_schema()
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    texts = [""] * 4
    for chunk in client.chat.completions.create(response_format=form, n=4, stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    for text in texts:
        Calculation.model_validate_json(text)
    answer = client.completions.create(
        model="tiny", prompt="x", max_tokens=120, extra_body={"response_format": form}
    )
    Calculation.model_validate_json(answer.choices[0].text)
    with pytest.raises(openai.BadRequestError) as bad:
        form["json_schema"]["schema"] = {"not": {}}
        client.chat.completions.create(response_format=form, **fields)
    process.send_signal(signal.SIGTERM)
    assert bad.value.param == "response_format" and bad.value.code == "invalid_schema"
    assert process.wait(60) == 0


def test_errors_have_the_clients_types(client: Any, server: str) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=SAY, presence_penalty=1)
    assert bad.value.param == "presence_penalty"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=SAY)
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=SAY, max_tokens=511)
    assert bad.value.code == "context_length_exceeded"
    for key in ("wrong-key", "none"):
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=server, api_key=key, max_retries=0).models.list()
    large = httpx.post(f"{server}/completions", content=b"x" * (5 << 20))
    assert large.status_code == 401  # before the body is read
    header = {"Authorization": f"Bearer {KEY}"}
    large = httpx.post(f"{server}/completions", content=b"x" * (5 << 20), headers=header)
    assert large.status_code == 413


def test_a_client_that_goes_away_frees_its_rows(client: Any, server: str) -> None:
    aborted = metric(server, "posttrain_aborted_requests_total") if _has_aborted(server) else 0
    for _ in range(3):
        stream = client.completions.create(
            model="tiny", prompt="x", max_tokens=480, n=8, stream=True
        )
        next(iter(stream))
        stream.close()
    # One that waits for a whole answer.
    host, port = server.removesuffix("/v1").removeprefix("http://").split(":")
    body = b'{"model": "tiny", "prompt": "x", "max_tokens": 480, "n": 100}'
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: metric(server, "posttrain_open_samples") == 100)
    until(lambda: metric(server, "posttrain_open_samples") == 0)
    until(lambda: metric(server, "posttrain_open_requests") == 0)
    assert metric(server, "posttrain_aborted_requests_total") >= aborted + 2
    assert metric(server, "posttrain_engine_discarded_tokens") > 0


def _has_aborted(server: str) -> bool:
    header = {"Authorization": f"Bearer {KEY}"}
    text = httpx.get(server.removesuffix("/v1") + "/metrics", headers=header).text
    return "\nposttrain_aborted_requests_total " in text


def test_a_signal_lets_running_answers_finish(
    tiny_folder: Path, tmp_path: Path, launch: Any
) -> None:
    process, address = launch(tiny_folder)
    client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0)
    stream = client.completions.create(
        model="tiny", prompt="x", max_tokens=200, seed=1, stream=True
    )
    parts = [next(stream)]
    process.send_signal(signal.SIGINT)
    parts += list(stream)
    assert parts[-1].choices[0].finish_reason in ("length", "stop")
    assert process.wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "stopped" in log and "Traceback" not in log


@pytest.mark.parametrize("signals", [1, 2])
def test_answers_end_with_an_error_after_the_grace_time_or_a_second_signal(
    tiny_folder: Path, tmp_path: Path, launch: Any, signals: int
) -> None:
    grace = "grace_seconds=1" if signals == 1 else "grace_seconds=50"
    process, address = launch(tiny_folder, grace)
    client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0)
    streams = [
        client.completions.create(model="tiny", prompt="x", max_tokens=480, n=100, stream=True)
        for _ in range(4)
    ]
    next(iter(streams[-1]))
    started = time.monotonic()
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    for stream in streams:
        with pytest.raises(openai.APIError) as ended:
            list(stream)
        assert ended.value.code == "stopping"
    assert process.wait(60) == 0 and time.monotonic() - started < 50
    log = (tmp_path / "log").read_text()
    assert "stopped" in log and "Traceback" not in log


def test_wrong_arguments_end_before_the_weights(tmp_path: Path) -> None:
    from posttrain.cli import main

    model = str(tmp_path)
    assert main(["serve", model, "--host", "0.0.0.0"]) == 2
    assert main(["serve", model, "max_tokens=0"]) == 2
    assert main(["serve", model, "max_token=5"]) == 2
    assert main(["serve", model, "--api-key", "short"]) == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", model, "--port", str(taken.getsockname()[1])]) == 2
