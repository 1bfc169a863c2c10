"""GRPO through a real vLLM server beside the embedded engine, and what may go wrong with a server.

    make serve-check [VLLM=/path/to/python] [SEEDS=5] [STEPS=20]

vLLM runs in an environment of its own: the interpreter that --python names, else benchmarks/.vllm,
which is made where it is missing (2.9 GB; see engine_peer.py). Four checks, each of which may fail:

learning  GRPO on arithmetic with the embedded model, both engines with the same seeds: prompts,
          order and evaluation are the same, samples are not (vLLM's CPU build takes no seeds). The
          difference of accuracies is paired by seed.
sync      after every update, log-probs of server and trainer differ by less than 1e-4 nats on
          average.
in flight weights change while completions are written; spans say which token is of which weights.
restart   the server is killed during a run, is noticed, started again, and the run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import engine_peer
import machine

import posttrain as pt

HERE = Path(__file__).resolve().parent
BOUND = 1e-4
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
"""Student's t at 95 % for so many pairs."""

TASK = {"name": "arithmetic", "num_steps": 2, "max_operand": 20, "max_value": 99}
HELD_OUT = {**TASK, "num_examples": 200, "split": "test"}
SAMPLING = pt.Sampling(max_tokens=40)


def launch(python: str, **changes: Any) -> pt.Launch:
    """How vLLM is started: as on any CPU, with little memory and no compilation."""
    return pt.Launch(
        python,
        arguments=["--enforce-eager", "--max-num-seqs", "128"],
        environment=engine_peer.QUIET,
        max_model_len=256,
        start_seconds=900.0,
        **changes,
    )


def plan(engine: Any) -> pt.Plan:
    return pt.grpo(
        {**TASK, "num_examples": 400},
        engine=engine,
        num_generations=8,
        batch_size=8,
        learning_rate=2e-4,
        sampling=SAMPLING,
    )


def accuracy(model: Any) -> float:
    """Share of right answers of 200 held-out problems, 4 samples each."""
    result = pt.evaluate(
        model, HELD_OUT, num_examples=200, num_samples=4, sampling=SAMPLING, seed=1234
    )
    return float(result.metrics()["accuracy"]["estimate"])


def trained(engine: Any, seed: int, steps: int) -> dict[str, Any]:
    """One run and its figures."""
    started = time.perf_counter()
    result = pt.fit(pt.load("embedded", dtype="float32"), plan(engine), steps=steps, seed=seed)
    figures: dict[str, Any] = {
        "seconds": time.perf_counter() - started,
        "rewards": [row["reward"] for row in result.metrics if "reward" in row],
        "accuracy": accuracy(result.model),
    }
    gaps = [row["sync/logprob_gap/mean"] for row in result.metrics if "sync/seconds" in row]
    if gaps:
        rows = [row for row in result.metrics if "sync/seconds" in row]
        figures |= {
            "syncs": len(gaps),
            "largest_mean_gap": max(gaps),
            "largest_gap": max(row["sync/logprob_gap/max"] for row in rows),
            "sync_seconds": mean(row["sync/seconds"] for row in rows),
            "largest_sampling_gap": max(
                row["sampling/sampling_logp_difference/max"] for row in result.metrics
            ),
        }
    return figures


def interval(differences: list[float]) -> list[float]:
    """Mean and 95 % interval of paired differences; of one pair there is no interval."""
    if len(differences) < 2:
        return differences
    half = T_95.get(len(differences), 2.0) * stdev(differences) / len(differences) ** 0.5
    return [mean(differences), mean(differences) - half, mean(differences) + half]


def learning(url: str, seeds: int, steps: int, save: Callable[[dict[str, Any]], None]) -> None:
    """Both engines, seed by seed. save: gets the figures after each seed."""
    start = accuracy(pt.load("embedded", dtype="float32"))
    runs = []
    for seed in range(seeds):
        served = trained(pt.Served(url=url, seeds=False), seed, steps)
        runs.append({"seed": seed, "embedded": trained("embedded", seed, steps), "vllm": served})
        print(json.dumps(runs[-1]), flush=True)
        save(compared(start, runs, steps))


def compared(start: float, runs: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """What the runs of both engines show. start: the accuracy before."""
    differences = [run["vllm"]["accuracy"] - run["embedded"]["accuracy"] for run in runs]
    gained = [run["vllm"]["accuracy"] - start for run in runs]
    largest = max(run["vllm"]["largest_mean_gap"] for run in runs)
    _, *bounds = interval(differences)
    return {
        "accuracy_before": start,
        "runs": runs,
        "vllm_minus_embedded": interval(differences),
        "vllm_minus_before": interval(gained),
        "largest_mean_gap": largest,
        "passed": {
            "learns": min(gained) > 0,
            "as the embedded engine": not bounds or bounds[0] <= 0 <= bounds[1],
            "synced": largest < BOUND and all(run["vllm"]["syncs"] == steps for run in runs),
        },
    }


def in_flight(url: str) -> dict[str, Any]:
    """An update under running requests."""
    import torch

    from posttrain.engines.servers import open_servers
    from posttrain.types import Request, Sampling

    model = pt.load("embedded", dtype="float32")
    sampling = Sampling(max_tokens=200)
    pool = open_servers(pt.Served(url=url, seeds=False), model, sampling=sampling, folder=None)
    pool.members[0].engine.stop_ids = frozenset()
    requests = [Request((1, 40 + i), sampling, n=4) for i in range(8)]
    for request in requests:
        pool.submit(request)
    time.sleep(0.4)
    with torch.no_grad():
        for parameter in model.pretrained.parameters():
            parameter.mul_(1.01)
    model.weights_version += 1
    pool.sync(model.weights_version)
    finished = []
    while pool.num_open:
        finished += pool.step()
    pool.close()
    samples = [sample for result in finished for sample in result.samples]
    spans = [[list(span) for span in sample.spans] for sample in samples]
    whole = all(
        [0, *(span[2] for span in row)] == [*(span[1] for span in row), len(sample.ids)]
        for row, sample in zip(spans, samples, strict=True)
    )
    mixed = sum(len(row) == 2 for row in spans)
    return {
        "completions": len(spans),
        "of_two_versions": mixed,
        "example": next((row for row in spans if len(row) == 2), spans[0]),
        "passed": {"spans are whole": whole, "updated in flight": mixed > 0},
    }


def restart(python: str, folder: Path) -> dict[str, Any]:
    """A run whose server is killed after its second step."""
    killed: list[int] = []

    def kill(step: int, metrics: dict[str, float]) -> None:
        if step == 2:
            pids = [int(pid) for pid in _server_pids(folder)]
            killed.extend(pids)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

    engine = pt.Served(launch=launch(python), seeds=False)
    result = pt.fit(
        pt.load("embedded", dtype="float32"),
        plan(engine),
        steps=5,
        seed=0,
        output=folder,
        hooks=[kill],
    )
    last = result.metrics[-1]
    return {
        "killed": len(killed),
        "restarts": last["engine/restarts"],
        "steps": last["step"],
        "largest_mean_gap": max(row["sync/logprob_gap/mean"] for row in result.metrics),
        "passed": {
            "noticed and started again": bool(killed) and last["engine/restarts"] == 1,
            "went on": last["step"] == 5,
        },
    }


def _server_pids(folder: Path) -> list[str]:
    """Processes that serve a model of the run's folder, but for the guard."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    return [
        line.split()[0]
        for line in listed.splitlines()
        if str(folder / "served") in line and "launch_guard" not in line
    ]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", default="", help="the interpreter that has vLLM")
    parser.add_argument("--url", default="", help="a server that runs, for all but restart")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", default="learning,in_flight,restart")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    python = options.python or str(engine_peer.install())
    path = options.output or HERE / "results" / f"serve_check-{date.today()}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    result |= {"machine": machine.describe(), "vllm": engine_peer.VLLM, "steps": options.steps}
    wanted = options.only.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        if options.url:
            _on_server(options.url, wanted, options, result, path)
        elif {"learning", "in_flight"} & set(wanted):
            _with_server(python, place, wanted, options, result, path)
        if "restart" in wanted:
            result["restart"] = restart(python, place / "restart")
            _write(path, result)
    failed = [
        f"{check}: {name}"
        for check in ("learning", "in_flight", "restart")
        for name, passed in result.get(check, {}).get("passed", {}).items()
        if not passed
    ]
    print("\n".join(f"FAILED {name}" for name in failed) or "all checks passed")
    return int(bool(failed))


def _with_server(
    python: str, place: Path, wanted: list[str], options: Any, result: dict[str, Any], path: Path
) -> None:
    """The checks that share one server."""
    from posttrain.engines.launch import LaunchedServer, ServedModel
    from posttrain.engines.server_weights import save_for_servers

    (place / "start").mkdir()
    save_for_servers(pt.load("embedded", dtype="float32"), place / "start")
    served = ServedModel("float32", 256, "raw_logprobs")
    server = LaunchedServer(launch(python), "vllm", served, number=0, folder=place)
    started = time.perf_counter()
    try:
        server.start(str(place / "start"))
        result["start_seconds"] = time.perf_counter() - started
        _on_server(server.url, wanted, options, result, path)
    finally:
        server.stop()


def _on_server(
    url: str, wanted: list[str], options: Any, result: dict[str, Any], path: Path
) -> None:
    """The checks of a server that runs."""
    if "in_flight" in wanted:
        result["in_flight"] = in_flight(url)
        print(json.dumps(result["in_flight"]), flush=True)
        _write(path, result)
    if "learning" in wanted:

        def save(figures: dict[str, Any]) -> None:
            result["learning"] = figures
            _write(path, result)

        learning(url, options.seeds, options.steps, save)


def _write(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
