"""vLLM's protocol: bodies as they go out, answers as vLLM 0.32 gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.engines.http_client import RequestRefused
from posttrain.engines.server_protocol import Asked
from posttrain.engines.vllm_protocol import Vllm, arguments
from posttrain.errors import EndpointError
from posttrain.types import Request, Sampling

# Recorded from vLLM 0.32 on a CPU, cut to what is read.
ANSWER = {
    "choices": [
        {
            "index": 1,
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": [54],
            "weight_versions": [{"version": "3", "start": 0, "end": 1}],
            "logprobs": {"content": [{"token_id": 54, "logprob": -2.8, "top_logprobs": []}]},
        },
        {
            "index": 0,
            "finish_reason": "stop",
            "stop_reason": "\n",
            "token_ids": [54, 31],
            "weight_versions": [{"version": "2", "start": 0, "end": 2}],
            "logprobs": {
                "content": [
                    {
                        "token_id": 54,
                        "logprob": -2.84,
                        "top_logprobs": [
                            {"token_id": 54, "logprob": -2.84, "rank": 6},
                            {"token_id": 22, "logprob": -1.5, "rank": 1},
                        ],
                    },
                    {
                        "token_id": 31,
                        "logprob": -0.5,
                        "top_logprobs": [{"token_id": 31, "logprob": -0.5, "rank": 1}],
                    },
                ]
            },
        },
    ]
}


class Client:
    """Remembers what is sent and gives prepared answers by path."""

    url, max_retries = "http://server", 3

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.sent: list[tuple[str, Any]] = []

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        self.sent.append((path, body))
        answer = self.answers.get(path, {})
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get(self, path: str, **options: Any) -> Any:
        return self.post(path)


def served(**answers: Any) -> tuple[Vllm, Client]:
    client = Client({f"/{k.replace('__', '/')}": v for k, v in answers.items()})
    return Vllm(client), client  # type: ignore[arg-type]


def asked(**changes: Any) -> Asked:
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, top_k=3, stop=("\n",))
    request = Request((1, 2), sampling, n=2, seed=11, num_top_logprobs=1)
    return Asked("abc", request, frozenset({2}), salt="3", model="m", **changes)


def test_a_request_says_everything_that_decides_a_sample() -> None:
    server, client = served(inference__v1__generate=ANSWER)
    server.generate(asked())
    ((path, body),) = client.sent
    assert path == "/inference/v1/generate"
    assert body["token_ids"] == [1, 2] and body["cache_salt"] == "3" and body["model"] == "m"
    assert body["request_id"] == "abc"
    assert body["sampling_params"] == {
        "n": 2,
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.0,
        "stop": ["\n"],
        "stop_token_ids": [2],
        "ignore_eos": True,
        "logprobs": 1,
        "skip_special_tokens": False,
        "seed": 11,
    }


def test_seeds_stay_out_where_they_are_not_wanted() -> None:
    server, client = served(inference__v1__generate=ANSWER)
    server.generate(asked(has_seed=False))
    assert "seed" not in client.sent[0][1]["sampling_params"]


def test_choices_come_in_their_order_with_spans_and_the_best_tokens() -> None:
    server, _ = served(inference__v1__generate=ANSWER)
    first, second = server.generate(asked())
    assert first.ids == [54, 31] and first.logprobs == [-2.84, -0.5]
    assert first.stop_string == "\n" and list(first.spans) == [("2", 0, 2)]
    assert first.top_logprobs == [((22, -1.5),), ((31, -0.5),)]
    assert second.ids == [54] and second.stop_string is None


def test_scores_are_of_the_given_tokens() -> None:
    rows = [None, {"5": {"logprob": -11.0}}, {"7": {"logprob": -2.0}, "1": {"logprob": -1.0}}]
    server, client = served(inference__v1__generate={"prompt_logprobs": rows})
    assert server.score((1, 5, 7), 2, "m", "0") == [-2.0]
    assert server.score((1, 5, 7), 1, "m", "0") == [-11.0, -2.0]
    assert client.sent[0][1]["sampling_params"]["prompt_logprobs"] == 0


@pytest.mark.parametrize("answer", [None, {}, {"choices": [{}]}, {"choices": 3}])
def test_another_form_is_an_error(answer: Any) -> None:
    server, _ = served(inference__v1__generate=answer)
    with pytest.raises(EndpointError):
        server.generate(asked())


def test_a_reload_pauses_loads_labels_and_goes_on() -> None:
    server, client = served()
    server.reload(Path("/w/weights-4"), 4)
    assert [path for path, _ in client.sent] == [
        "/pause?mode=keep",
        "/collective_rpc",
        "/update_weight_version",
        "/resume",
    ]
    assert client.sent[1][1]["kwargs"] == {"weights_path": "/w/weights-4"}
    assert client.sent[2][1] == {"new_version": "4"}


def test_a_failed_reload_goes_on_with_what_is_there() -> None:
    server, client = served(collective_rpc=RequestRefused("no", 500, "no"))
    with pytest.raises(EndpointError):
        server.reload(Path("/w"), 4)
    assert client.sent[-1][0] == "/resume"


def test_a_route_that_is_missing_says_how_to_start_the_server() -> None:
    server, _ = served(inference__v1__generate=RequestRefused("403", 403, ""))
    with pytest.raises(EndpointError, match="--enable-scale-out"):
        server.generate(asked())


def test_the_server_says_what_it_is() -> None:
    config = {"dtype": "torch.float32", "logprobs_mode": "raw_logprobs"}
    server, _ = served(
        v1__models={"data": [{"id": "m", "max_model_len": 256}]},
        weight_checker={"checksums": {"dp0:model.embed_tokens.weight": "0"}},
    )
    server.client.answers["/server_info?config_format=json"] = {  # type: ignore[attr-defined]
        "vllm_config": {"model_config": config}
    }
    facts = server.facts()
    assert (facts.model, facts.dtype, facts.max_model_len) == ("m", "float32", 256)
    assert facts.logprobs_mode == "raw_logprobs" and facts.is_tied is True


def test_a_token_outside_the_vocabulary_is_refused_by_the_server() -> None:
    server, _ = served(inference__v1__generate=RequestRefused("out", 400, ""))
    assert not server.takes(999, "m")
    assert served()[0].takes(1, "m")


def test_aborts_and_adapters_by_name() -> None:
    server, client = served()
    server.abort("abc")
    server.load_adapter("a-1", Path("/a"))
    server.unload_adapter("a-0")
    assert client.sent == [
        ("/inference/v1/abort_requests", {"request_ids": ["generate-tokens-abc"]}),
        ("/v1/load_lora_adapter", {"lora_name": "a-1", "lora_path": "/a"}),
        ("/v1/unload_lora_adapter", {"lora_name": "a-0"}),
    ]


def test_the_command_line_has_what_the_protocol_needs() -> None:
    given = arguments(
        "/w", 81, dtype="float32", max_model_len=64, logprobs_mode="raw_logprobs", lora=16
    )
    text = " ".join(given)
    assert "--enable-scale-out" in given and "--host 127.0.0.1 --port 81" in text
    assert "--max-model-len 64" in text and "--max-lora-rank 16" in text
