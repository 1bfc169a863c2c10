from __future__ import annotations

import asyncio
from typing import Any

import pytest

from posttrain.serve.refusal import Refusal
from posttrain.serve.served import Limits

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
CHAT = "/v1/chat/completions"


def test_places_are_bounded_in_all_and_per_key(service: Any) -> None:
    server = service(limits=Limits(max_samples=8, max_samples_per_key=5))
    with server.places("a", 4), server.places("b", 3):
        assert server.num_samples == 7
        with pytest.raises(Refusal) as refused, server.places("a", 2):
            pass
        assert refused.value.status == 429 and int(refused.value.headers["Retry-After"]) >= 1
        with pytest.raises(Refusal) as refused, server.places("c", 2):
            pass
        assert refused.value.status == 429
        with server.places("c", 1):
            assert server.num_samples == 8
    assert server.num_samples == 0
    with pytest.raises(Refusal) as refused, server.places("a", 6):
        pass
    assert refused.value.status == 400  # it can never have so many


def test_places_come_back_whatever_happens(client: Any, service: Any) -> None:
    server = service()
    engine = server.model.engine

    async def run() -> None:
        async with client(server) as http:
            for body in (ASK, ASK | {"stream": True}, ASK | {"model": "tiny@majority_vote"}):
                engine.broken = RuntimeError("lost")
                response = await http.post(CHAT, json=body)
                if body.get("stream"):
                    assert response.status_code == 200 and '"server_error"' in response.text
                    assert "[DONE]" not in response.text
                else:
                    assert response.status_code == 500
                    assert response.json()["error"]["code"] == "engine_failed"
                engine.broken = None
                assert server.num_samples == 0
                assert (await http.post(CHAT, json=body)).status_code == 200

    asyncio.run(run())


def test_a_full_queue_answers_429_with_retry_after(client: Any, service: Any) -> None:
    server = service(limits=Limits(max_samples=4))
    engine = server.model.engine

    async def run() -> None:
        async with client(server) as http:
            engine.gate.clear()
            waiting = [asyncio.ensure_future(http.post(CHAT, json=ASK | {"n": 2})) for _ in "ab"]
            while server.num_samples < 4:
                await asyncio.sleep(0.01)
            refused = await http.post(CHAT, json=ASK)
            assert refused.status_code == 429 and refused.headers["retry-after"]
            assert refused.json()["error"]["code"] == "queue_full"
            engine.gate.set()
            assert [r.status_code for r in await asyncio.gather(*waiting)] == [200, 200]
            assert (await http.post(CHAT, json=ASK)).status_code == 200

    asyncio.run(run())


def test_a_refusal_of_the_engine_is_a_400(client: Any, service: Any) -> None:
    from posttrain.errors import ConfigError

    server = service()
    server.model.engine.refused = ConfigError("top_p is odd")

    async def run() -> None:
        async with client(server) as http:
            response = await http.post(CHAT, json=ASK)
            assert response.status_code == 400
            assert "top_p is odd" in response.json()["error"]["message"]

    asyncio.run(run())


def test_a_draining_server_takes_nothing_new(client: Any, service: Any) -> None:
    async def run() -> None:
        server = service()
        async with client(server) as http:
            assert (await http.get("/health")).json() == {"status": "ok"}
            server.is_draining = True
            assert (await http.get("/health")).status_code == 503
            assert (await http.post(CHAT, json=ASK)).status_code == 503

    asyncio.run(run())


def test_a_request_over_time_is_ended(client: Any, service: Any) -> None:
    server = service(limits=Limits(timeout_seconds=1))
    engine = server.model.engine

    async def run() -> None:
        async with client(server) as http:
            for stream in (False, True):
                engine.gate.clear()
                asyncio.get_running_loop().call_later(2, engine.gate.set)
                response = await http.post(CHAT, json=ASK | {"stream": stream})
                assert response.status_code == (200 if stream else 504)
                assert '"timeout"' in response.text
                while engine.num_open:
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_without_a_template_messages_are_refused(
    client: Any, service: Any, tiny_tokenizer: Any
) -> None:
    import copy

    plain = copy.copy(tiny_tokenizer)
    plain.chat_template = None
    raising = copy.copy(tiny_tokenizer)
    raising.chat_template = "{{ raise_exception('only users') }}"

    async def run() -> None:
        for tokenizer in (plain, raising):
            async with client(service(tokenizer=tokenizer)) as http:
                response = await http.post(CHAT, json=ASK)
                assert response.status_code == 400
                assert response.json()["error"]["code"] == "invalid_prompt"

    asyncio.run(run())
