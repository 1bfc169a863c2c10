"""SGLang's protocol of token ids, by HTTP alone. Written to its documentation; no server of it has
been run with this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.engines.http_client import JsonClient, RequestRefused
from posttrain.engines.server_protocol import Asked, Choice, ServerFacts, shape_error

MODULE = "sglang.launch_server"
ENVIRONMENT: dict[str, str] = {}


def arguments(
    model: str, port: int, *, dtype: str, max_model_len: int | None, logprobs_mode: str, lora: int
) -> list[str]:
    """The command line of a server on this machine. Its log-probs have no mode: they are of the
    logits over the temperature. lora: largest rank of adapters, 0 = none.
    """
    given = ["--model-path", model, "--dtype", dtype, "--host", "127.0.0.1", "--port", str(port)]
    if max_model_len is not None:
        given += ["--context-length", str(max_model_len)]
    if lora:
        given += ["--enable-lora", "--max-lora-rank", str(lora), "--max-loaded-loras", "2"]
    return given


class SGLang:
    """One server of SGLang's protocol. A `ServerProtocol`."""

    has_spans = False

    def __init__(self, client: JsonClient) -> None:
        self.client = client

    def facts(self) -> ServerFacts:
        info = self.client.get("/get_server_info")
        try:
            dtype = str(info.get("dtype", "auto"))
            length = info.get("context_length")
            return ServerFacts(
                "",
                dtype=None if dtype == "auto" else dtype,
                max_model_len=None if length is None else int(length),
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise shape_error(self.client, info, error) from error

    def takes(self, token_id: int, model: str) -> bool:
        body = {"input_ids": [token_id], "sampling_params": {"max_new_tokens": 1}}
        try:
            self.client.post("/generate", body)
        except RequestRefused as error:
            if error.status == 400:
                return False
            raise
        return True

    def generate(self, asked: Asked) -> list[Choice]:
        request, sampling = asked.request, asked.request.sampling
        params: dict[str, Any] = {
            "n": request.n,
            "max_new_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "stop": list(sampling.stop),
            "stop_token_ids": asked.all_stop_ids,
            "ignore_eos": True,
            "skip_special_tokens": False,
        }
        if asked.has_seed:
            params["sampling_seed"] = request.seed
        body: dict[str, Any] = {
            "input_ids": list(request.prompt_ids),
            "sampling_params": params,
            "return_logprob": True,
            "top_logprobs_num": request.num_top_logprobs,
            "rid": asked.id,
        }
        if asked.model:
            body["lora_path"] = asked.model
        if asked.salt:
            body["extra_key"] = asked.salt
        answer = self.client.post("/generate", body)
        try:
            rows = answer if isinstance(answer, list) else [answer]
            return [_choice(row, request.num_top_logprobs) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise shape_error(self.client, answer, error) from error

    def score(self, ids: Sequence[int], start: int, model: str, salt: str) -> list[float]:
        body: dict[str, Any] = {
            "input_ids": list(ids),
            "sampling_params": {"max_new_tokens": 1, "temperature": 1.0},
            "return_logprob": True,
            "logprob_start_len": 0,
        }
        if model:
            body["lora_path"] = model
        if salt:
            body["extra_key"] = salt
        answer = self.client.post("/generate", body)
        try:
            rows = answer["meta_info"]["input_token_logprobs"]
            if [int(row[1]) for row in rows[start:]] != list(ids[start:]):
                raise ValueError("log-probs of other ids")
            return [float(row[0]) for row in rows[start:]]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise shape_error(self.client, answer, error) from error

    def abort(self, request_id: str) -> None:
        self.client.post("/abort_request", {"rid": request_id}, max_retries=0)

    def reload(self, folder: Path, version: int) -> None:
        body = {
            "model_path": str(folder),
            "weight_version": str(version),
            "abort_all_requests": False,
            "flush_cache": True,
        }
        self.client.post("/update_weights_from_disk", body)

    def load_adapter(self, name: str, folder: Path) -> None:
        self.client.post("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    def unload_adapter(self, name: str) -> None:
        self.client.post("/unload_lora_adapter", {"lora_name": name})

    def checksums(self) -> dict[str, str]:
        return {}


def _choice(row: dict[str, Any], num_top: int) -> Choice:
    meta = row["meta_info"]
    reason = meta.get("finish_reason") or {}
    matched = reason.get("matched")
    tops = meta.get("output_top_logprobs") or []
    return Choice(
        [int(i) for i in row["output_ids"]],
        [float(entry[0]) for entry in meta["output_token_logprobs"]],
        str(reason.get("type")),
        stop_string=matched if isinstance(matched, str) else None,
        top_logprobs=[tuple((int(e[1]), float(e[0])) for e in best[:num_top]) for best in tops],
    )
