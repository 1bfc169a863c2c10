"""A server under load: streaming clients for some minutes, errors counted, memory over time.

    .venv/bin/python benchmarks/serve_soak.py [--minutes 10] [--clients 64] [--prefix-mib 8]

It starts `posttrain serve` as a process of its own, and needs httpx and the extra serve. Every
client sends one request after another. Most are streams; some ask for two choices, a stop string,
a search or a whole answer; some go away in the middle of a stream; some are malformed and must be
refused. A stream counts as an error unless it has the status 200, an end with `[DONE]`, and a
count of tokens within its limits.
Every client sends its first request again from time to time: the same seed has to give the same
text, whatever else runs.

Memory is the resident size of the server's process, read every few seconds, and how much of it is
held for later prompts. That grows up to a bound (`max_prefix_bytes` of `posttrain serve`, 256 MiB
by default), which clients of a small model do not reach in ten minutes. The bound is small here, so
that whatever else grows is seen. The slope is of the second half, by least squares. Its standard
error takes readings as independent, which they are not: it is too small.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import machine

ROOT = Path(__file__).resolve().parent.parent
KEY = "a-key-for-the-soak"
HEADERS = {"Authorization": f"Bearer {KEY}"}
PROMPTS = [
    "What is 17 + 25?",
    "Say hello.",
    "Count from one to ten.",
    "A farmer has 12 hens and sells 5. How many are left?",
    "Write a short story about a cat – with “quotes” and a 🙂.",
]
READINGS = ("seconds_of_readings", "memory_mib", "prefix_mib")
SHARES = {"stream": 70, "leave": 10, "whole": 8, "search": 6, "malformed": 6}
"""Kinds of requests, in per cent."""


@dataclass
class Counts:
    """What the clients saw.

    Attributes:
        done: requests by kind. errors: what was wrong, with counts. differing: repeated requests
        whose text was another. first: seconds to the first text of streams. tokens: of answers.
    """

    done: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    differing: int = 0
    first: list[float] = field(default_factory=list)
    tokens: int = 0


@contextlib.contextmanager
def running_server(model: str, prefix_bytes: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server and its address. It is stopped by SIGTERM and has to end with status 0."""
    command = [sys.executable, "-m", "posttrain.cli", "serve", model, "--port", "0"]
    command.append(f"max_prefix_bytes={prefix_bytes}")
    environment = {**os.environ, "POSTTRAIN_API_KEY": KEY, "PYTHONPATH": str(ROOT / "src")}
    with tempfile.NamedTemporaryFile("wb") as log:
        process = subprocess.Popen([*command, "--name", "soak"], stderr=log, env=environment)

        def written() -> str:
            return Path(log.name).read_text()

        try:
            while not (match := re.search(r"http://\S+(?=/v1)", written())):
                if process.poll() is not None:
                    raise RuntimeError(written()[-2000:])
                time.sleep(0.1)
            yield process, match[0]
            process.send_signal(signal.SIGTERM)
            if process.wait(120) or "Traceback" in written():
                raise RuntimeError(written()[-2000:])
        finally:
            process.kill()
            process.wait()


def body_of(kind: str, generator: random.Random) -> dict[str, Any]:
    """A request to the chat route."""
    body: dict[str, Any] = {
        "model": "soak",
        "messages": [{"role": "user", "content": generator.choice(PROMPTS)}],
        "max_tokens": generator.randrange(8, 96),
        "temperature": generator.choice([0.0, 0.7, 1.0]),
        "seed": generator.randrange(2**31),
    }
    if kind in ("stream", "leave"):
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        if generator.random() < 0.2:
            body["n"] = 2
        if generator.random() < 0.2:
            body["stop"] = [".", "\n\n"]
    elif kind == "search":
        body["search"] = {"name": "majority_vote", "num_samples": 4}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    elif kind == "malformed":
        field, value = generator.choice([("n", 0), ("unknown", 1), ("messages", []), ("seed", "x")])
        body[field] = value
    return body


async def stream(
    http: httpx.AsyncClient, body: dict[str, Any], counts: Counts, leave_after: int | None = None
) -> str | None:
    """The text of all choices of a stream, checked; None for a stream that was left."""
    started, texts, usage, has_end = time.monotonic(), [""] * body.get("n", 1), None, False
    number = 0
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}")
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            number += 1
            if number == leave_after:
                return None
            if line == "data: [DONE]":
                has_end = True
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise ValueError(f"error {event['error']['code']}")
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                text = choice["delta"].get("content") or ""
                if text and not any(texts):
                    counts.first.append(time.monotonic() - started)
                texts[choice["index"]] += text
    if not has_end or usage is None:
        raise ValueError("a stream without an end")
    completion = usage["completion_tokens"]
    num_samples = body.get("search", {}).get("num_samples", len(texts))
    if not 0 < completion <= body["max_tokens"] * num_samples:
        raise ValueError("a wrong number of tokens")
    counts.tokens += completion
    return "\x1e".join(texts)


async def request(http: httpx.AsyncClient, kind: str, body: dict[str, Any], counts: Counts) -> None:
    """Send one request and check its answer.

    Raises:
        ValueError: the answer is wrong.
    """
    if kind in ("stream", "search"):
        await stream(http, body, counts)
    elif kind == "leave":
        await stream(http, body, counts, leave_after=1 + body["seed"] % 8)
    else:
        response = await http.post("/v1/chat/completions", json=body)
        wanted = 400 if kind == "malformed" else 200
        if response.status_code != wanted:
            raise ValueError(f"status {response.status_code} instead of {wanted}")
        if kind == "whole":
            counts.tokens += response.json()["usage"]["completion_tokens"]
    counts.done[kind] += 1


async def client(address: str, number: int, end: float, counts: Counts) -> None:
    """One client, until the time is over."""
    generator = random.Random(number)
    first_body = body_of("stream", generator) | {"max_tokens": 24}
    first_text = None
    kinds, weights = list(SHARES), list(SHARES.values())
    async with httpx.AsyncClient(
        base_url=address, headers=HEADERS, timeout=300, trust_env=False, verify=False
    ) as http:
        turn = 0
        while time.monotonic() < end:
            try:
                if turn % 10 == 0:
                    text = await stream(http, first_body, counts)
                    counts.done["stream"] += 1
                    if first_text is not None:
                        counts.repeated += 1
                        counts.differing += text != first_text
                    first_text = text
                else:
                    kind = generator.choices(kinds, weights)[0]
                    await request(http, kind, body_of(kind, generator), counts)
            except (httpx.HTTPError, ValueError, KeyError) as error:
                counts.errors[f"{type(error).__name__}: {error}"[:200]] += 1
            turn += 1


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


@dataclass
class Memory:
    """MiB, read every so many seconds. resident: of the process. prefixes: held for later prompts,
    and part of it. at: seconds since the first reading.
    """

    at: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    prefixes: list[float] = field(default_factory=list)


async def watch(pid: int, address: str, end: float, every: float) -> Memory:
    """Read memory until the time is over."""
    memory, started = Memory(), time.monotonic()
    async with httpx.AsyncClient(headers=HEADERS, timeout=60, trust_env=False) as http:
        while time.monotonic() < end:
            held = metrics_of((await http.get(f"{address}/metrics")).text)
            memory.at.append(round(time.monotonic() - started, 1))
            memory.resident.append(round(resident_mib(pid), 1))
            memory.prefixes.append(round(held["posttrain_prefix_bytes"] / 2**20, 1))
            await asyncio.sleep(every)
    return memory


def slope_per_minute(at: list[float], sizes: list[float]) -> tuple[float, float]:
    """MiB per minute by least squares over the second half of the readings, and the standard error
    for independent readings; NaN where there are too few.
    """
    x, y = at[len(at) // 2 :], sizes[len(at) // 2 :]
    if len(x) < 3:
        return math.nan, math.nan
    slope, intercept = statistics.linear_regression(x, y)
    squares = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    spread = statistics.variance(x) * (len(x) - 1)
    return 60 * slope, 60 * math.sqrt(squares / (len(x) - 2) / spread)


def server_metrics(address: str) -> dict[str, float]:
    """The server's own counts, without labels."""
    return metrics_of(httpx.get(f"{address}/metrics", headers=HEADERS, trust_env=False).text)


def metrics_of(text: str) -> dict[str, float]:
    """Counts without labels, from the text of /metrics."""
    pairs = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs if "{" not in name}


def soak(
    model: str, num_clients: int, seconds: float, prefix_mib: float, every: float = 5.0
) -> dict[str, Any]:
    """Run a server and its clients; the figures."""
    counts = Counts()

    async def run(pid: int, address: str) -> Memory:
        end = time.monotonic() + seconds
        clients = [client(address, number, end, counts) for number in range(num_clients)]
        memory, *_ = await asyncio.gather(watch(pid, address, end, every), *clients)
        return memory

    with running_server(model, round(prefix_mib * 2**20)) as (process, address):
        memory = asyncio.run(run(process.pid, address))
        limit = time.monotonic() + 10
        while (metrics := server_metrics(address))["posttrain_open_requests"]:
            if time.monotonic() > limit:
                break
            time.sleep(0.1)
    slope, error = slope_per_minute(memory.at, memory.resident)
    half = memory.resident[len(memory.resident) // 2 :]
    first = sorted(counts.first) or [math.nan]
    names = ("open_samples", "open_requests", "engine_steps", "engine_failures")
    return {
        "clients": num_clients,
        "seconds": seconds,
        "requests": dict(counts.done),
        "errors": dict(counts.errors),
        "repeated": counts.repeated,
        "differing": counts.differing,
        "tokens_per_second": round(counts.tokens / seconds, 1),
        "first_text_seconds": {
            "median": round(statistics.median(first), 3),
            "p99": round(first[int(0.99 * (len(first) - 1))], 3),
        },
        "server_at_the_end": {name: metrics[f"posttrain_{name}"] for name in names},
        "aborted": metrics.get("posttrain_aborted_requests_total", 0),
        "memory_mib_per_minute": round(slope, 3),
        "standard_error": round(error, 3),
        "second_half_mib": [min(half), max(half)],
        "prefix_mib_bound": prefix_mib,
        "seconds_of_readings": memory.at,
        "memory_mib": memory.resident,
        "prefix_mib": memory.prefixes,
    }


def main() -> None:
    """Print the figures and write them to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--prefix-mib", type=float, default=8)
    options = parser.parse_args()
    figures = soak(options.model, options.clients, 60 * options.minutes, options.prefix_mib)
    today = str(date.today())
    head = {"date": today, "machine": machine.describe(), "model": options.model}
    path = ROOT / "benchmarks" / "results" / f"serve_soak-{today}.json"
    path.write_text(json.dumps(head | figures, indent=1) + "\n")
    print(json.dumps({k: v for k, v in figures.items() if k not in READINGS}, indent=1))


if __name__ == "__main__":
    main()
