from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from posttrain.serve.search import served_searches

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "3 + 4"}], "max_tokens": 40}
ANSWERS = ["so 7", "hm 8", "is 7", "i say 7"]


def post(client: Any, service: Any, body: dict[str, Any], path: str = "chat/completions") -> Any:
    async def ask() -> Any:
        async with client(service) as http:
            return await http.post(f"/v1/{path}", json=body)

    return asyncio.run(ask())


@pytest.fixture
def voters(service: Any) -> Any:
    """Makes services of which sample k answers with ANSWERS[k % 4]."""

    def make(**fields: Any) -> Any:
        made = service(lambda request, index: made.model.engine.ids(ANSWERS[index % 4]), **fields)
        return made

    return make


def test_a_vote_is_asked_for_by_field_or_by_name(client: Any, voters: Any) -> None:
    by_field = ASK | {"search": {"name": "majority_vote", "num_samples": 4}}
    by_both = by_field | {"model": "tiny@majority_vote"}
    by_name = ASK | {"model": "tiny@majority_vote"}
    for body, count in ((by_field, 4), (by_both, 4), (by_name, 8)):
        answer = post(client, voters(), body).json()
        (choice,) = answer["choices"]
        assert choice["message"]["content"] in ("so 7", "is 7", "i say 7")
        assert choice["finish_reason"] == "stop"
        assert answer["search"]["answer"] == "7"
        assert answer["search"]["num_candidates"] == count
        assert answer["search"]["votes"] == {"7": 0.75 * count, "8": 0.25 * count}
        assert answer["model"] == body["model"]


def test_a_search_is_written_by_the_adapter_that_its_name_says(client: Any, voters: Any) -> None:
    for name, adapter in (("tiny", ""), ("rhymes", "rhymes")):
        server = voters(adapters={"rhymes": voters().model.tokenizer})
        answer = post(client, server, ASK | {"model": f"{name}@majority_vote"}).json()
        assert answer["model"] == f"{name}@majority_vote"
        assert {request.adapter for request in server.model.engine.requests} == {adapter}


def test_usage_counts_all_tokens_and_splits_them(client: Any, voters: Any) -> None:
    body = ASK | {"search": {"name": "majority_vote", "num_samples": 4, "return_candidates": True}}
    answer = post(client, voters(), body).json()
    usage, candidates = answer["usage"], answer["search"]["candidates"]
    spent = sum(len(text) + 1 for text in ANSWERS)  # one token per letter, and the end
    assert usage["completion_tokens"] == spent == sum(c["num_tokens"] for c in candidates)
    chosen = len(answer["choices"][0]["message"]["content"]) + 1
    assert usage["completion_tokens_details"] == {
        "selected_tokens": chosen,
        "discarded_tokens": spent - chosen,
    }
    assert {c["answer"] for c in candidates} == {"7", "8"}


def test_completions_search_too(client: Any, voters: Any) -> None:
    body = {"model": "tiny@sample", "prompt": "x", "max_tokens": 9}
    answer = post(client, voters(), body, "completions").json()
    assert answer["choices"][0]["text"] == "so 7" and answer["search"]["name"] == "sample"


def test_a_stream_shows_life_and_then_the_answer(
    client: Any, voters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.serve.search.HEARTBEAT_SECONDS", 0.05)
    server = voters()
    engine = server.model.engine
    engine.gate.clear()
    threading.Timer(0.5, engine.gate.set).start()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    text = post(client, server, ASK | {"model": "tiny@majority_vote"} | options).text
    assert text.count(": at work\n\n") >= 2
    events = [json.loads(p[6:]) for p in text.split("\n\n") if p.startswith("data: {")]
    assert events[0]["choices"][0]["delta"]["content"].endswith("7")
    assert events[1]["choices"][0]["finish_reason"] == "stop"
    assert events[1]["search"]["answer"] == "7"
    assert events[2]["usage"]["completion_tokens"] > 8
    assert text.endswith("data: [DONE]\n\n")


def test_the_budget_bounds_what_is_sampled(client: Any, service: Any) -> None:
    body = ASK | {"search": {"name": "majority_vote", "num_samples": 8, "max_tokens": 50}}
    answer = post(client, service(), body).json()
    assert answer["usage"]["completion_tokens"] == 50
    small = ASK | {"search": {"name": "majority_vote", "num_samples": 8, "max_tokens": 7}}
    answer = post(client, service(), small).json()
    assert answer["usage"]["completion_tokens"] == 7


def test_the_extractor_is_the_requests(client: Any, voters: Any) -> None:
    search = {"name": "majority_vote", "num_samples": 4, "extractor": "whole"}
    answer = post(client, voters(), ASK | {"search": search}).json()
    assert set(answer["search"]["votes"]) == set(ANSWERS)
    by_server = voters(extractor="whole")
    answer = post(client, by_server, ASK | {"model": "tiny@majority_vote"}).json()
    assert set(answer["search"]["votes"]) == set(ANSWERS)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"search": {"name": "majority_voet"}}, "search.name"),
        ({"search": {"name": "best_of_n"}}, "search.name"),  # needs a scorer
        ({"search": {"name": "majority_vote", "num_sample": 3}}, "search"),
        ({"search": {"name": "majority_vote", "num_samples": 0}}, "search"),
        ({"search": {"name": "majority_vote", "num_samples": "8"}}, "search"),
        ({"search": {"name": "majority_vote", "num_samples": 10**9}}, "search"),
        ({"search": {"name": "majority_vote", "max_tokens": 10**9}}, "search.max_tokens"),
        ({"search": {"num_samples": 8}}, "search.name"),
        ({"search": {"name": "sample"}, "model": "tiny@majority_vote"}, "search"),
        ({"search": {"name": "majority_vote"}, "n": 2}, "n"),
        ({"search": {"name": "majority_vote"}, "logprobs": True}, "logprobs"),
        ({"search": {"name": "majority_vote", "extractor": "regex"}}, "search.extractor"),
    ],
)
def test_refusals_name_the_field(
    client: Any, service: Any, more: dict[str, Any], param: str
) -> None:
    response = post(client, service(), ASK | more)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_a_search_over_time_is_ended(client: Any, service: Any) -> None:
    from posttrain.serve.served import Limits

    server = service(limits=Limits(timeout_seconds=1))
    server.model.engine.gate.clear()
    threading.Timer(2, server.model.engine.gate.set).start()
    response = post(client, server, ASK | {"model": "tiny@majority_vote"})
    assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"
    assert server.model.engine.num_open == 0


def test_only_searches_without_a_scorer_are_served() -> None:
    names = served_searches()
    assert {"majority_vote", "sample", "most_likely"} <= set(names)
    assert "best_of_n" not in names and "value_beam" not in names
