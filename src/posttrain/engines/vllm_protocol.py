"""vLLM's protocol of token ids (0.28 or later), by HTTP alone.

Needed of a server: `--enable-scale-out`, and VLLM_SERVER_DEV_MODE=1 for updates of the weights.
Routes of that mode ask for no key, so such a server must be reachable by the run alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.engines.http_client import JsonClient, RequestRefused
from posttrain.engines.server_protocol import Asked, Choice, ServerFacts, shape_error
from posttrain.errors import EndpointError

MODULE = "vllm.entrypoints.openai.api_server"
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_GENERATE = "/inference/v1/generate"
_ID = "generate-tokens-"  # what the server writes before the ids of its requests
_HOW = (
    "start the server with VLLM_SERVER_DEV_MODE=1 and --enable-scale-out, or let engine.launch "
    "start it"
)


def arguments(
    model: str, port: int, *, dtype: str, max_model_len: int | None, logprobs_mode: str, lora: int
) -> list[str]:
    """The command line of a server on this machine. lora: largest rank of adapters, 0 = none."""
    given = ["--model", model, "--served-model-name", "posttrain", "--dtype", dtype]
    given += ["--host", "127.0.0.1", "--port", str(port), "--enable-scale-out"]
    given += ["--logprobs-mode", logprobs_mode, "--generation-config", "vllm"]
    if max_model_len is not None:
        given += ["--max-model-len", str(max_model_len)]
    if lora:
        given += ["--enable-lora", "--max-lora-rank", str(lora), "--max-loras", "2"]
    return given


class Vllm:
    """One server of vLLM's protocol. A `ServerProtocol`."""

    has_spans = True

    def __init__(self, client: JsonClient) -> None:
        self.client = client

    def facts(self) -> ServerFacts:
        models = self._get("/v1/models")
        try:
            served = models["data"][0]
            info = self._get("/server_info?config_format=json")
            config = info["vllm_config"]["model_config"]
            names = self.checksums()
            return ServerFacts(
                served["id"],
                dtype=str(config["dtype"]).removeprefix("torch."),
                max_model_len=served.get("max_model_len"),
                logprobs_mode=config.get("logprobs_mode"),
                is_tied=not any("lm_head" in name for name in names) if names else None,
            )
        except (KeyError, IndexError, TypeError) as error:
            raise shape_error(self.client, models, error) from error

    def takes(self, token_id: int, model: str) -> bool:
        body = {"token_ids": [token_id], "model": model, "sampling_params": {"max_tokens": 1}}
        try:
            self.client.post(_GENERATE, body)
        except RequestRefused as error:
            if error.status == 400:
                return False
            raise _explained(error) from error
        return True

    def generate(self, asked: Asked) -> list[Choice]:
        request, sampling = asked.request, asked.request.sampling
        params: dict[str, Any] = {
            "n": request.n,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "stop": list(sampling.stop),
            "stop_token_ids": asked.all_stop_ids,
            "ignore_eos": True,  # all ids that end a sample are among those above
            "logprobs": request.num_top_logprobs,
            "skip_special_tokens": False,
        }
        if asked.has_seed:
            params["seed"] = request.seed
        answer = self._generate(asked.request.prompt_ids, params, asked.model, asked.salt, asked.id)
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            return [_choice(choice, request.num_top_logprobs) for choice in choices]
        except (KeyError, TypeError, ValueError) as error:
            raise shape_error(self.client, answer, error) from error

    def score(self, ids: Sequence[int], start: int, model: str, salt: str) -> list[float]:
        params = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0, "detokenize": False}
        answer = self._generate(ids, params, model, salt)
        try:
            rows = answer["prompt_logprobs"]
            return [
                float(row[str(token)]["logprob"])
                for token, row in zip(ids[start:], rows[start:], strict=True)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise shape_error(self.client, answer, error) from error

    def abort(self, request_id: str) -> None:
        body = {"request_ids": [_ID + request_id]}
        self.client.post("/inference/v1/abort_requests", body, max_retries=0)

    def reload(self, folder: Path, version: int) -> None:
        self._post("/pause?mode=keep")
        try:
            kwargs = {"weights_path": str(folder)}
            self._post("/collective_rpc", {"method": "reload_weights", "kwargs": kwargs})
            self._post("/update_weight_version", {"new_version": str(version)})
        finally:
            self._post("/resume")

    def load_adapter(self, name: str, folder: Path) -> None:
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    def unload_adapter(self, name: str) -> None:
        self._post("/v1/unload_lora_adapter", {"lora_name": name})

    def checksums(self) -> dict[str, str]:
        try:
            answer = self.client.post("/weight_checker", {"action": "checksum"})
        except RequestRefused as error:
            if error.status in (404, 405):
                return {}
            raise
        return dict(answer["checksums"]) if isinstance(answer, dict) else {}

    def _generate(
        self,
        ids: Sequence[int],
        params: dict[str, Any],
        model: str,
        salt: str,
        request_id: str | None = None,
    ) -> Any:
        body: dict[str, Any] = {"token_ids": list(ids), "model": model, "sampling_params": params}
        if salt:
            body["cache_salt"] = salt
        if request_id is not None:
            body["request_id"] = request_id
        return self._post(_GENERATE, body)

    def _get(self, path: str) -> Any:
        try:
            return self.client.get(path)
        except RequestRefused as error:
            raise _explained(error) from error

    def _post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            return self.client.post(path, body)
        except RequestRefused as error:
            raise _explained(error) from error


def _explained(error: RequestRefused) -> EndpointError:
    """The error with the way out where the server lacks a route."""
    if error.status in (403, 404, 405):
        return EndpointError(f"{error}. {_HOW}")
    return error


def _choice(choice: dict[str, Any], num_top: int) -> Choice:
    content = (choice.get("logprobs") or {}).get("content") or []
    stop = choice.get("stop_reason")
    top = [
        tuple((int(t["token_id"]), float(t["logprob"])) for t in _best(entry, num_top))
        for entry in content
    ]
    return Choice(
        list(choice.get("token_ids") or []),
        [float(entry["logprob"]) for entry in content],
        str(choice.get("finish_reason")),
        stop_string=stop if isinstance(stop, str) else None,
        spans=[
            (str(s["version"]), int(s["start"]), int(s["end"]))
            for s in choice.get("weight_versions") or ()
        ],
        top_logprobs=top if num_top else [],
    )


def _best(entry: dict[str, Any], num_top: int) -> list[dict[str, Any]]:
    """The likeliest entries of a place; the server lists the sampled token first, whatever its
    rank.
    """
    return sorted(entry.get("top_logprobs") or (), key=lambda t: -float(t["logprob"]))[:num_top]
