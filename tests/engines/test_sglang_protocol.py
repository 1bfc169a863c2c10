"""SGLang's protocol, by its documentation: bodies as they go out, answers as they come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.engines.server_protocol import Asked
from posttrain.engines.sglang_protocol import SGLang, arguments
from posttrain.errors import EndpointError
from posttrain.types import Request, Sampling

ONE = {
    "output_ids": [7, 8],
    "meta_info": {
        "finish_reason": {"type": "stop", "matched": "\n"},
        "output_token_logprobs": [[-0.5, 7, None], [-1.5, 8, None]],
        "output_top_logprobs": [[[-0.1, 9, None], [-0.5, 7, None]], [[-1.5, 8, None]]],
    },
}


class Client:
    """Remembers what is sent and gives one answer."""

    url = "http://server"

    def __init__(self, answer: Any = None) -> None:
        self.answer, self.sent = answer, list[tuple[str, Any]]()

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        self.sent.append((path, body))
        return self.answer

    def get(self, path: str, **options: Any) -> Any:
        return self.post(path)


def served(answer: Any = None) -> tuple[SGLang, Client]:
    client = Client(answer)
    return SGLang(client), client  # type: ignore[arg-type]


def asked() -> Asked:
    request = Request((1, 2), Sampling(max_tokens=9, stop=("\n",)), seed=4, num_top_logprobs=1)
    return Asked("abc", request, frozenset({2}), salt="3", model="posttrain-3")


def test_a_request_and_its_answer() -> None:
    server, client = served(ONE)
    (choice,) = server.generate(asked())
    path, body = client.sent[0]
    assert path == "/generate" and body["input_ids"] == [1, 2] and body["rid"] == "abc"
    assert body["lora_path"] == "posttrain-3" and body["extra_key"] == "3"
    given = body["sampling_params"]
    assert given["max_new_tokens"] == 9 and given["top_k"] == -1 and given["sampling_seed"] == 4
    assert choice.ids == [7, 8] and choice.logprobs == [-0.5, -1.5]
    assert choice.finish_reason == "stop" and choice.stop_string == "\n"
    assert choice.top_logprobs == [((9, -0.1),), ((8, -1.5),)]


def test_several_completions_are_a_list() -> None:
    server, _ = served([ONE, ONE])
    assert len(server.generate(asked())) == 2


def test_scores_are_those_of_the_ids_that_were_sent() -> None:
    info = {"input_token_logprobs": [[None, 1, None], [-2.0, 5, None], [-3.0, 6, None]]}
    server, _ = served({"meta_info": info})
    assert server.score((1, 5, 6), 1, "", "0") == [-2.0, -3.0]
    with pytest.raises(EndpointError):
        server.score((1, 5, 7), 1, "", "0")


def test_an_update_is_one_call() -> None:
    server, client = served()
    server.reload(Path("/w"), 4)
    ((path, body),) = client.sent
    assert path == "/update_weights_from_disk"
    assert body["model_path"] == "/w" and body["weight_version"] == "4" and body["flush_cache"]


def test_the_server_says_what_it_is() -> None:
    server, _ = served({"dtype": "auto", "context_length": 128})
    assert server.facts().dtype is None and server.facts().max_model_len == 128


def test_the_command_line() -> None:
    given = arguments("/w", 81, dtype="float32", max_model_len=64, logprobs_mode="", lora=0)
    assert "--model-path /w" in " ".join(given) and "--context-length 64" in " ".join(given)
