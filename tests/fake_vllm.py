"""A server of vLLM's protocol of token ids over TorchEngine, run as a script in its own process.

It takes vLLM's arguments. What it does wrong is read from a JSON file that the variable FAKE_FAULTS
names, at each request; {number} of it is the server's:
    die: end the process at the nth request for completions, once. status: answer so many requests
    for completions with 500. slow: seconds before each answer. stale: what a reload leaves as it
    was: "head", or "all". deaf: answer nothing any more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch
from safetensors.torch import load_file

from posttrain.engines.torch import TorchEngine
from posttrain.models.adapter_sharing import with_adapter
from posttrain.models.load import load_model
from posttrain.types import Request, Sampling

_PREFIX = "generate-tokens-"


@dataclass
class Row:
    """A sample that is written: ids, log-probs, spans of versions."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[list[Any]] = field(default_factory=list)
    reason: str = ""
    stop: Any = None

    def add(self, ids: list[int], logprobs: list[float], version: str) -> None:
        start = len(self.ids)
        self.ids += ids
        self.logprobs += logprobs
        if self.spans and self.spans[-1][0] == version:
            self.spans[-1][2] = len(self.ids)
        elif ids:
            self.spans.append([version, start, len(self.ids)])


@dataclass
class Job:
    """A request. tickets: of the engine, with the rows that each writes."""

    request: Request
    adapter: str
    stop_ids: frozenset[int]
    rows: list[Row]
    done: threading.Event = field(default_factory=threading.Event)
    tickets: dict[int, list[int]] = field(default_factory=dict)


class Sampler(TorchEngine):
    """Ends samples at the ids of their requests alone, as `ignore_eos` has it."""

    stop_ids = frozenset()  # type: ignore[assignment]


class FakeServer:
    """The model and its open requests. One lock guards all of it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.model = load_model(arguments.model, dtype=arguments.dtype, device="cpu").eval()
        self.engines = {"": Sampler(self.model)}
        self.version = "default"
        self.paused = False
        self.jobs: dict[str, Job] = {}
        self.lock = threading.RLock()
        self.faults = Path(os.environ.get("FAKE_FAULTS", "/nonexistent"))
        self.seen: list[dict[str, Any]] = []  # bodies of requests for completions
        threading.Thread(target=self.loop, daemon=True).start()

    # -- the engine

    def loop(self) -> None:
        while True:
            with self.lock:
                busy = not self.paused and any(e.num_open for e in self.engines.values())
                if busy:
                    self.step()
            time.sleep(0 if busy else 0.002)

    def step(self) -> None:
        for name, engine in self.engines.items():
            if not engine.num_open:
                continue
            for finished in engine.step():
                for key, job in list(self.jobs.items()):
                    if job.adapter == name and finished.ticket in job.tickets:
                        self.finish(key, job, finished)

    def finish(self, key: str, job: Job, finished: Any) -> None:
        for number, sample in zip(job.tickets.pop(finished.ticket), finished.samples, strict=True):
            row = job.rows[number]
            row.reason, row.stop = sample.finish_reason, sample.stop_string
            assert row.ids[-len(sample.ids) :] == sample.ids
        if not job.tickets:
            del self.jobs[key]
            job.done.set()

    def submit(self, job: Job, request: Request, rows: list[int]) -> None:
        def tell(index: int, ids: list[int], logprobs: list[float]) -> None:
            job.rows[rows[index]].add(ids, logprobs, self.version)

        ticket = self.engines[job.adapter].submit(request, on_logprobs=tell)
        job.tickets[ticket] = rows

    def reload(self, folder: str) -> None:
        """New weights under open requests: they go on from what they have."""
        stale = self.fault("stale")
        tied = self.model.pretrained.get_output_embeddings().weight
        before = tied.detach().clone()
        if stale != "all":
            fresh: dict[str, torch.Tensor] = {}
            for file in sorted(Path(folder).glob("*.safetensors")):
                fresh |= load_file(file)
            with torch.no_grad():
                for name, parameter in self.model.pretrained.named_parameters():
                    parameter.copy_(fresh[name])
                if stale == "head":
                    self.model.pretrained.get_output_embeddings().weight.copy_(before)
        for job in self.jobs.values():
            tickets, job.tickets = job.tickets, {}
            for ticket in tickets:
                self.engines[job.adapter].abort(ticket)
            for number in [n for rows in tickets.values() for n in rows]:
                self.go_on(job, number)
        self.model.weights_version += 1
        self.engines[""].sync(self.model.weights_version)
        for job in self.jobs.values():
            for request, number in job.__dict__.pop("waiting", []):
                self.submit(job, request, [number])
        for key, job in list(self.jobs.items()):
            if not job.tickets:
                del self.jobs[key]
                job.done.set()

    def go_on(self, job: Job, number: int) -> None:
        row, request = job.rows[number], job.request
        left = request.sampling.max_tokens - len(row.ids)
        if (row.ids and row.ids[-1] in job.stop_ids) or not left:
            row.reason = "length" if left == 0 else "stop"
            return
        more = replace(
            request,
            prompt_ids=(*request.prompt_ids, *row.ids),
            sampling=replace(request.sampling, max_tokens=left),
            seed=request.seed + 1000 + number,
            n=1,
        )
        job.__dict__.setdefault("waiting", []).append((more, number))

    # -- faults

    def fault(self, name: str) -> Any:
        try:
            return json.loads(self.faults.read_text()).get(name)
        except (OSError, ValueError):
            return None

    def misbehave(self) -> int | None:
        """Do what the faults say of a request for completions; the status to answer with."""
        if self.fault("deaf"):
            time.sleep(3600)
        time.sleep(self.fault("slow") or 0)
        left = self.fault("die")
        if left is not None:
            self.note(die=left - 1 if left > 1 else None)
            if left <= 1:
                os._exit(9)
        errors = self.fault("status")
        if errors:
            self.note(status=errors - 1)
            return 500
        return None

    def note(self, **changes: Any) -> None:
        values = {**json.loads(self.faults.read_text()), **changes}
        self.faults.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    # -- routes

    def post(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> Any:
        if path == "/inference/v1/generate":
            return self.generate(body)
        with self.lock:
            if path in ("/inference/v1/abort_requests", "/abort_requests"):
                return self.abort(body["request_ids"])
            if path == "/pause":
                assert query["mode"] == ["keep"]
                self.paused = True
            elif path == "/resume":
                self.paused = False
            elif path == "/collective_rpc":
                assert body["method"] == "reload_weights" and self.paused
                self.reload(body["kwargs"]["weights_path"])
            elif path == "/update_weight_version":
                self.version = body["new_version"]
            elif path == "/weight_checker":
                names = [n for n, _ in self.model.pretrained.named_parameters()]
                return {"checksums": {f"dp0:{name}": "0" for name in names}}
            elif path == "/v1/load_lora_adapter":
                adapted = with_adapter(self.model, body["lora_path"])
                self.engines[body["lora_name"]] = Sampler(adapted, beside=self.engines[""])
            elif path == "/v1/unload_lora_adapter":
                del self.engines[body["lora_name"]]
            else:
                raise Problem(404, f"no route {path}")
        return {"status": "ok"}

    def get(self, path: str) -> Any:
        if path == "/health":
            return {}
        if path == "/v1/models":
            name, length = self.arguments.served_model_name, self.arguments.max_model_len
            return {"data": [{"id": name, "max_model_len": length}]}
        if path == "/server_info":
            config = {
                "dtype": str(self.model.pretrained.dtype),
                "logprobs_mode": self.arguments.logprobs_mode,
            }
            return {"vllm_config": {"model_config": config}}
        if path == "/weight_info":
            return {"weight_version": self.version}
        raise Problem(404, f"no route {path}")

    def generate(self, body: dict[str, Any]) -> Any:
        status = self.misbehave()
        if status is not None:
            raise Problem(status, "a fault")
        self.seen.append(body)
        given, ids = body["sampling_params"], tuple(body["token_ids"])
        if max(ids) >= self.model.config.vocab_size:
            raise Problem(400, f"Token id {max(ids)} is out of vocabulary")
        if "prompt_logprobs" in given:
            return self.score(ids)
        adapter = body["model"] if body["model"] in self.engines else ""
        if not adapter and body["model"] != self.arguments.served_model_name:
            raise Problem(404, f"The model `{body['model']}` does not exist")
        with self.lock:
            salt = body.get("cache_salt", self.version)
            if not adapter and salt != self.version:
                raise Problem(400, f"salt {salt} of weights {self.version}")
            job = self.job(ids, given, adapter)
            key = _PREFIX + body.get("request_id", str(id(job)))
            self.jobs[key] = job
            self.submit(job, job.request, list(range(job.request.n)))
        job.done.wait()
        return {"choices": [_choice(number, row, job) for number, row in enumerate(job.rows)]}

    def job(self, ids: tuple[int, ...], given: dict[str, Any], adapter: str) -> Job:
        stop_ids = given.get("stop_token_ids", ())
        sampling = Sampling(
            max_tokens=given["max_tokens"],
            temperature=given.get("temperature", 1.0),
            top_p=given.get("top_p", 1.0),
            top_k=given.get("top_k", 0),
            min_p=given.get("min_p", 0.0),
            stop=tuple(given.get("stop", ())),
            stop_ids=tuple(stop_ids),
        )
        n = given.get("n", 1)
        request = Request(ids, sampling, n=n, seed=given.get("seed", 0), reuse=False)
        return Job(request, adapter, frozenset(stop_ids), [Row() for _ in range(n)])

    def score(self, ids: tuple[int, ...]) -> Any:
        with self.lock:
            scores = self.engines[""].score([(ids, 1)])[0]
        rows = [{str(i): {"logprob": p}} for i, p in zip(ids[1:], scores, strict=True)]
        return {"prompt_logprobs": [None, *rows], "choices": []}

    def abort(self, request_ids: list[str]) -> Any:
        for key in request_ids:
            job = self.jobs.pop(key, None)
            if job is not None:
                for ticket in job.tickets:
                    self.engines[job.adapter].abort(ticket)
                for row in job.rows:
                    row.reason = row.reason or "abort"
                job.done.set()
        return {"status": "aborted"}


def _choice(number: int, row: Row, job: Job) -> dict[str, Any]:
    spans = [{"version": v, "start": s, "end": e} for v, s, e in row.spans]
    content = [
        {"token_id": i, "logprob": p, "top_logprobs": [{"token_id": i, "logprob": p}]}
        for i, p in zip(row.ids, row.logprobs, strict=True)
    ]
    return {
        "index": number,
        "finish_reason": row.reason,
        "stop_reason": row.stop,
        "token_ids": row.ids,
        "weight_versions": spans,
        "logprobs": {"content": content},
    }


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """Routes to the server."""

    server_version, protocol_version = "fake", "HTTP/1.1"
    fake: FakeServer

    def do_GET(self) -> None:
        self.answer(lambda: self.fake.get(urlsplit(self.path).path))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        parts = urlsplit(self.path)
        self.answer(lambda: self.fake.post(parts.path, parse_qs(parts.query), body))

    def answer(self, make: Any) -> None:
        try:
            status, value = 200, make()
        except Problem as problem:
            status, value = problem.status, {"error": {"message": str(problem)}}
        except Exception as error:
            status, value = 500, {"error": {"message": repr(error)}}
        data = json.dumps(value).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)
        self.close_connection = True

    def log_message(self, format: str, *values: Any) -> None:
        print(format % values, flush=True)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", default="m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--logprobs-mode", default="raw_logprobs")
    return parser.parse_known_args(arguments)[0]


def server_of(arguments: argparse.Namespace) -> ThreadingHTTPServer:
    """A server that is bound and does not run yet; `server.fake` is its model."""
    fake = FakeServer(arguments)
    handler = type("OwnHandler", (Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), handler)
    server.daemon_threads = True
    server.fake = fake  # type: ignore[attr-defined]
    return server


@contextlib.contextmanager
def running(folder: Path, *more: str) -> Iterator[ServedFake]:
    """A server of a folder in threads of this process. more: of its command line."""
    server = server_of(parsed(["--model", str(folder), "--port", "0", *more]))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield ServedFake(f"http://127.0.0.1:{server.server_address[1]}", server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class ServedFake:
    """A server that runs. url: its address."""

    url: str
    server: Any

    @property
    def fake(self) -> FakeServer:
        return self.server.fake  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Close its port, as if its process had died."""
        self.server.shutdown()
        self.server.server_close()


def main() -> None:
    torch.set_num_threads(1)
    server_of(parsed()).serve_forever()


if __name__ == "__main__":
    main()
