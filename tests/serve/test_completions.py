from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest


def post(client: Any, service: Any, body: dict[str, Any]) -> Any:
    async def ask() -> Any:
        async with client(service) as http:
            return await http.post("/v1/completions", json={"model": "tiny"} | body)

    return asyncio.run(ask())


def test_a_prompt_is_text_ids_or_several_of_either(client: Any, service: Any) -> None:
    server = service()
    ids = server.model.engine.ids("one")
    given = ["one", ["one", "two"], ids, [ids, ids], ["one", ids]]
    texts = []
    for prompt in given:
        body = post(client, service(), {"prompt": prompt, "max_tokens": 5, "seed": 1}).json()
        assert body["object"] == "text_completion"
        texts.append([choice["text"] for choice in body["choices"]])
        assert [c["index"] for c in body["choices"]] == list(range(len(texts[-1])))
    assert [len(t) for t in texts] == [1, 2, 1, 2, 2]
    assert texts[0][0] == texts[1][0]
    assert texts[3][0] != texts[3][1]  # equal prompts of one request draw apart


def test_text_begins_with_bos_and_ids_are_taken_as_they_are(client: Any, service: Any) -> None:
    server = service()
    post(client, server, {"prompt": "a", "max_tokens": 1})
    assert server.model.engine.requests[0].prompt_ids[0] == server.model.tokenizer.bos_token_id
    server = service()
    post(client, server, {"prompt": [9, 8], "max_tokens": 1})
    assert server.model.engine.requests[0].prompt_ids == (9, 8)


def test_sixteen_tokens_unless_asked_for_more(client: Any, service: Any) -> None:
    body = post(client, service(), {"prompt": "a"}).json()
    assert body["usage"]["completion_tokens"] == 16


def test_echo_gives_likelihoods_of_the_prompt(client: Any, service: Any) -> None:
    """What evaluation harnesses read: a row per token of prompt and completion."""
    from posttrain.engines.likelihood import TokenLikelihood

    def score(sequences: Any, num_top: int, adapter: str) -> Any:
        return [
            [TokenLikelihood(-float(i), ((7, -0.1),)[:num_top]) for i in range(1, len(ids))]
            for ids in sequences
        ]

    server = service(likelihoods=score)
    ids = [1, *server.model.engine.ids("abc")]
    fields = {"echo": True, "max_tokens": 1, "logprobs": 1, "seed": 0}
    body = post(client, server, {"prompt": [ids, ids[:2]]} | fields).json()
    first = body["choices"][0]["logprobs"]
    assert first["token_logprobs"][:4] == [None, -1.0, -2.0, -3.0]
    assert len(first["tokens"]) == len(first["token_logprobs"]) == len(first["text_offset"]) == 5
    assert first["top_logprobs"][0] is None and len(first["top_logprobs"]) == 5
    token = first["tokens"][1]
    assert token == "a" and first["top_logprobs"][1][token] == -1.0
    assert len(first["top_logprobs"][1]) == 2
    assert len(body["choices"][1]["logprobs"]["tokens"]) == 3
    only = post(client, service(likelihoods=score), {"prompt": ids} | fields | {"max_tokens": 0})
    (choice,) = only.json()["choices"]
    assert choice["text"] == "abc" and len(choice["logprobs"]["tokens"]) == 4
    assert only.json()["usage"]["completion_tokens"] == 0


def test_an_engine_that_only_scores_gives_no_alternatives(client: Any, service: Any) -> None:
    fields = {"prompt": [1, 70, 71], "echo": True, "max_tokens": 0}
    (choice,) = post(client, service(), fields | {"logprobs": 0}).json()["choices"]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0, -2.0]
    assert choice["logprobs"]["top_logprobs"] is None
    error = post(client, service(), fields | {"logprobs": 1})
    assert error.status_code == 400 and error.json()["error"]["param"] == "logprobs"


def test_echo_of_text_is_the_text(client: Any, service: Any) -> None:
    (choice,) = post(client, service(), {"prompt": "Äh ", "echo": True}).json()["choices"]
    assert choice["text"].startswith("Äh ") and len(choice["text"]) == 19
    assert choice["logprobs"] is None


def test_token_ids_are_returned_if_asked_for(client: Any, service: Any) -> None:
    body = {"prompt": [5, 6], "max_tokens": 3, "return_token_ids": True}
    (choice,) = post(client, service(), body).json()["choices"]
    assert choice["prompt_token_ids"] == [5, 6] and len(choice["token_ids"]) == 3


def test_a_stream_ends_with_a_reason(client: Any, service: Any) -> None:
    body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 6, "seed": 5}
    whole = post(client, service(), body).json()
    response = post(client, service(), body | {"stream": True})
    parts = [json.loads(line[6:]) for line in response.text.split("\n\n")[:-2]]
    assert response.headers["content-type"].startswith("text/event-stream")
    for choice in whole["choices"]:
        mine = [c for p in parts for c in p["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt.0"),
        ({"prompt": [300]}, "prompt"),
        ({"prompt": [-1]}, "prompt.0.0"),
        ({"prompt": ["a", 3]}, "prompt.1"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "echo": True, "stream": True}, "echo"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "suffix": "x"}, "suffix"),
        ({"prompt": "a" * 250}, "prompt"),
        ({"prompt": "a", "max_tokens": 5000}, "max_tokens"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": "a", "n": 129}, "n"),
    ],
)
def test_refusals_name_the_field(
    client: Any, service: Any, body: dict[str, Any], param: str
) -> None:
    response = post(client, service(), body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["type"] == "invalid_request_error"
