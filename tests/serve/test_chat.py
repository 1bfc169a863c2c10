from __future__ import annotations

import asyncio
import json
from typing import Any

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def post(client: Any, service: Any, body: dict[str, Any]) -> Any:
    async def ask() -> Any:
        async with client(service) as http:
            return await http.post("/v1/chat/completions", json=body)

    return asyncio.run(ask())


def events(response: Any) -> list[Any]:
    lines = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def test_an_answer_has_the_shape_of_openai(client: Any, service: Any) -> None:
    server = service()
    response = post(client, server, HELLO | {"max_tokens": 9, "seed": 3, "n": 2})
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "chat.completion" and body["model"] == "tiny"
    assert body["id"].startswith("chatcmpl-") and body["created"] > 0
    first, second = body["choices"]
    assert first["index"] == 0 and second["index"] == 1
    assert len(first["message"]["content"]) == 9 and first["finish_reason"] == "length"
    assert first["message"]["content"] != second["message"]["content"]
    prompt = server.model.engine.requests[0].prompt_ids
    assert server.model.tokenizer.decode(prompt).endswith("<|user|>\nhello<|end|>\n<|assistant|>\n")
    assert body["usage"]["prompt_tokens"] == len(prompt)
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert body["usage"]["completion_tokens"] == 18
    assert body["usage"]["completion_tokens_details"] == {
        "selected_tokens": 18,
        "discarded_tokens": 0,
    }


def test_a_seed_fixes_the_answer(client: Any, service: Any) -> None:
    def text(**more: Any) -> str:
        body = post(client, service(), HELLO | {"max_tokens": 20} | more).json()
        return body["choices"][0]["message"]["content"]

    assert text(seed=3) == text(seed=3) != text(seed=4)
    assert text() != text()


def test_without_a_limit_the_context_is_the_limit(client: Any, service: Any) -> None:
    body = post(client, service(), HELLO).json()
    assert body["usage"]["total_tokens"] == 200


def test_stop_strings_are_cut(client: Any, service: Any) -> None:
    server = service(lambda request, index: server.model.engine.ids("ab END cd"))
    body = post(client, server, HELLO | {"stop": ["END", "x"]}).json()
    (choice,) = body["choices"]
    assert choice["message"]["content"] == "ab " and choice["finish_reason"] == "stop"


def test_a_stream_gives_the_same_text(client: Any, service: Any) -> None:
    text = "naïve “quotes” 🙂 then STOP not this"

    def server() -> Any:
        made = service(lambda request, index: made.model.engine.ids(f"{index}{text}"))
        return made

    body = HELLO | {"n": 2, "stop": "STOP"}
    whole = post(client, server(), body).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    parts = events(post(client, server(), body | options))
    for index in (0, 1):
        chosen = [p["choices"][0] for p in parts if p["choices"]]
        deltas = [c["delta"].get("content", "") for c in chosen if c["index"] == index]
        assert "".join(deltas) == f"{index}naïve “quotes” 🙂 then "
        assert "".join(deltas) == whole["choices"][index]["message"]["content"]
        assert not any("\ufffd" in delta for delta in deltas)
        assert len(deltas) > 20
        reasons = [c["finish_reason"] for c in chosen if c["index"] == index]
        assert reasons[-1] == "stop" and set(reasons[:-1]) == {None}
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert parts[-1]["choices"] == [] and parts[-1]["usage"] == whole["usage"]
    assert all(part["usage"] is None for part in parts[:-1])
    assert len({part["id"] for part in parts}) == 1


def test_logprobs(client: Any, service: Any) -> None:
    server = service(lambda request, index: server.model.engine.ids("aé"))
    body = post(client, server, HELLO | {"logprobs": True, "max_tokens": 3}).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert [c["logprob"] for c in content] == [-1.0, -1.1, -1.2]
    assert bytes(b for c in content for b in c["bytes"]).decode() == "aé"
    assert content[0]["token"] == "a" and content[1]["token"] == "bytes:\\xc3"
    assert content[0]["top_logprobs"] == []


def test_alternatives_come_from_the_likelihoods(client: Any, service: Any) -> None:
    from posttrain.engines.likelihood import TokenLikelihood

    def score(sequences: Any, num_top: int, adapter: str) -> Any:
        top = tuple((ord("a") + k, -0.5 - k) for k in range(num_top))
        return [[TokenLikelihood(-7.0, top) for _ in ids[1:]] for ids in sequences]

    server = service(likelihoods=score)
    body = HELLO | {"logprobs": True, "top_logprobs": 2, "max_tokens": 4}
    content = post(client, server, body).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 4 and content[0]["logprob"] == -1.0  # the sampled one is the engine's
    assert [t["logprob"] for t in content[0]["top_logprobs"]] == [-0.5, -1.5]
    refused = post(client, service(), body)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "top_logprobs"


def test_a_context_that_is_full_is_refused_with_numbers(client: Any, service: Any) -> None:
    long = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 300}]}
    error = post(client, service(), long)
    assert error.status_code == 400
    assert error.json()["error"]["code"] == "context_length_exceeded"
    assert "200" in error.json()["error"]["message"]
    error = post(client, service(), HELLO | {"max_tokens": 195})
    assert error.status_code == 400 and error.json()["error"]["param"] == "max_tokens"


TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}


def test_tools_that_the_template_does_not_show_are_refused(client: Any, service: Any) -> None:
    error = post(client, service(), HELLO | {"tools": [TOOL]})
    assert error.status_code == 400 and error.json()["error"]["param"] == "tools"
    fine = post(client, service(), HELLO | {"tools": [TOOL], "tool_choice": "none"})
    assert fine.status_code == 200


SUM = '{"x": 1}'
CALLS = f'so <tool_call>{{"name": "add", "arguments": {SUM}}}</tool_call>'


def with_tools(tokenizer: Any) -> Any:
    """The tokenizer with a template that shows tools."""
    import copy

    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = "{{ tools | tojson if tools else '' }}" + tokenizer.chat_template
    return tokenizer


def test_tool_calls_are_read(client: Any, service: Any, tiny_tokenizer: Any) -> None:
    tokenizer = with_tools(tiny_tokenizer)

    def server(text: str, **fields: Any) -> Any:
        made = service(
            lambda request, index: made.model.engine.ids(text),
            tokenizer=tokenizer,
            context_length=400,
            **fields,
        )
        return made

    body = HELLO | {"tools": [TOOL], "max_tokens": 90}
    (choice,) = post(client, server(CALLS), body).json()["choices"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "so"
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function" and call["id"]
    assert call["function"] == {"name": "add", "arguments": SUM}
    parts = events(post(client, server(CALLS), body | {"stream": True}))
    deltas = [p["choices"][0] for p in parts]
    assert "".join(d["delta"].get("content", "") for d in deltas) == "so"
    (with_call,) = [d["delta"] for d in deltas if "tool_calls" in d["delta"]]
    (call,) = with_call["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": SUM} and call["index"] == 0
    assert deltas[-1]["finish_reason"] == "tool_calls"
    (choice,) = post(client, server("plain"), body).json()["choices"]
    assert choice["finish_reason"] == "stop" and choice["message"]["content"] == "plain"
    (choice,) = post(client, server(CALLS, tool_parser="none"), body).json()["choices"]
    assert choice["message"]["content"] == CALLS and "tool_calls" not in choice["message"]


def test_a_call_that_is_cut_off_is_content(client: Any, service: Any, tiny_tokenizer: Any) -> None:
    def server() -> Any:
        made = service(
            lambda request, index: made.model.engine.ids(CALLS),
            tokenizer=with_tools(tiny_tokenizer),
        )
        return made

    body = HELLO | {"tools": [TOOL], "max_tokens": 30}
    (choice,) = post(client, server(), body).json()["choices"]
    assert choice["message"]["content"] == CALLS[:30] and choice["finish_reason"] == "length"
    parts = events(post(client, server(), body | {"stream": True}))
    deltas = [p["choices"][0]["delta"] for p in parts]
    assert "".join(d.get("content", "") for d in deltas) == CALLS[:30]


def test_an_earlier_call_reaches_the_template(
    client: Any, service: Any, tiny_tokenizer: Any
) -> None:
    import copy

    tokenizer = copy.copy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}={{ c.function.arguments.x }}{% endfor %}]{% endfor %}"
    )
    server = service(tokenizer=tokenizer)
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": 7}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "8"},
    ]
    assert post(client, server, {"model": "tiny", "messages": messages}).status_code == 200
    prompt = server.model.engine.requests[0].prompt_ids
    assert tokenizer.decode(prompt) == "[user:ab][assistant:add=7][tool:8]"
