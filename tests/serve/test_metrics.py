from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from posttrain.serve.metrics import Counter, Histogram, Metrics


def values(text: str) -> dict[str, float]:
    """Every sample of a text in Prometheus' format; each has a type before it."""
    samples: dict[str, float] = {}
    types: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types
            types[name] = kind
        elif not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            base = name.partition("{")[0]
            for end in ("_bucket", "_sum", "_count"):
                base = base if base in types else base.removesuffix(end)
            assert base in types and name not in samples
            samples[name] = float(value)
    return samples


def test_counters_have_labels() -> None:
    counter = Counter("posttrain_x", "Meaning.")
    counter.add(path="/a", status="200")
    counter.add(2, status="200", path="/a")
    counter.add(path='b"\\\n', status="1")
    assert counter.value(path="/a", status="200") == 3
    lines = list(counter.lines())
    assert lines[0] == "# HELP posttrain_x Meaning."
    assert 'posttrain_x{path="/a",status="200"} 3' in lines
    assert 'posttrain_x{path="b\\"\\\\\\n",status="1"} 1' in lines


def test_buckets_are_cumulative() -> None:
    histogram = Histogram("h", "Seconds.")
    for seconds in (0.01, 0.02, 7, 1000):
        histogram.observe(seconds)
    samples = values("\n".join(histogram.lines()))
    assert samples['h_bucket{le="0.01"}'] == 1
    assert samples['h_bucket{le="0.025"}'] == 2
    assert samples['h_bucket{le="10"}'] == 3
    assert samples['h_bucket{le="+Inf"}'] == samples["h_count"] == 4
    assert samples["h_sum"] == 1007.03


def test_counts_of_the_engine_are_shown() -> None:
    @dataclass
    class Stats:
        generated_tokens: int = 7
        name: str = "x"

    samples = values(Metrics().text({"posttrain_open": ("Now.", 2)}, Stats()))
    assert samples["posttrain_engine_generated_tokens"] == 7 and samples["posttrain_open"] == 2


def test_what_requests_cost_is_counted(client: Any, service: Any) -> None:
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}

    async def run() -> dict[str, float]:
        async with client(service()) as http:
            answers = [await http.post("/v1/chat/completions", json=ask | {"n": 2})]
            answers.append(await http.post("/v1/chat/completions", json=ask | {"stream": True}))
            vote = {"search": {"name": "majority_vote", "num_samples": 3}}
            answers.append(await http.post("/v1/chat/completions", json=ask | vote))
            assert [answer.status_code for answer in answers] == [200] * 3
            await http.post("/v1/chat/completions", json={})
            response = await http.get("/metrics")
            assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
            return values(response.text)

    samples = asyncio.run(run())
    path = '{path="/v1/chat/completions",status='
    assert samples[f'posttrain_requests_total{path}"200"}}'] == 3
    assert samples[f'posttrain_requests_total{path}"400"}}'] == 1
    assert samples['posttrain_tokens_total{kind="completion"}'] == 10 + 5 + 15
    assert samples['posttrain_tokens_total{kind="discarded"}'] == 10
    assert samples["posttrain_first_token_seconds_count"] == 1
    assert samples["posttrain_request_seconds_count"] == 3
    assert samples["posttrain_open_samples"] == 0 and samples["posttrain_engine_failures"] == 0
