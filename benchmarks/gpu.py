"""Tests that need a GPU, then training and decoding of random-weights Qwen3 models on one GPU,
against what the machine can do and against transformers and TRL.

    make gpu                                                     # all of it, 8 minutes at most
    python benchmarks/gpu.py [--only "0.6b sft,0.6b decode"] [--seconds 480] [--steps 5]
    python benchmarks/gpu.py --device cpu --shape tiny           # the same code at toy size

It needs no network and no files: models are made from their config and rows are random tokens. Each
part runs in a process of its own with a time limit. One that fails, is cut off or does not begin in
time is named with the reason, and what it had measured is kept. Results are written as they come.

Reported are tokens per second (distinct, and counted as unshared rows), peak memory, the share of
the measured rate of large matrix products for training (2 operations per weight and token forward,
4 backward, the head only where there is a target, attention left out), and for decoding the time of
a step over the time that reading the weights and all keys and values takes at the measured
bandwidth.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from gpu_model import Sizes, limits, make_model, peak_mib
from gpu_parts import measure_decode, measure_prefixes, training_part
from gpu_peer import measure_sampling, measure_trl
from gpu_peer import measure_training as measure_peer

PARTS: dict[str, int] = {
    "decode": 75,
    "sft": 60,
    "grpo": 75,
    "transformers sft": 45,
    "prefixes": 45,
    "dpo": 60,
    "transformers sampling": 45,
    "transformers dpo": 45,
    "trl sft": 60,
}
"""What is measured of each shape, with the most seconds that it may take."""

TESTS = "tests"
_TEST_SECONDS = 100
_ROOT = Path(__file__).parent.parent
_MARK = "figures: "


def run_part(name: str, device: str, steps: int, rates: dict[str, float]) -> None:
    """Measure one part in this process, and print each figure as soon as it is known."""
    shape, _, kind = name.partition(" ")
    place = torch.device(device)
    model, sizes = make_model(shape, device), Sizes.of(shape)

    def report(figure: str, numbers: dict[str, float]) -> None:
        numbers = {**numbers, "peak_mib": peak_mib(place)}
        print(f"{_MARK}{json.dumps([figure, numbers])}", flush=True)

    if kind == "decode":
        measure_decode(model, sizes, rates["bandwidth_gb"], report)
    elif kind == "prefixes":
        measure_prefixes(model, sizes, report)
    elif kind == "transformers sampling":
        report("", measure_sampling(model.hf, sizes))
    elif kind.startswith("transformers "):
        report("", measure_peer(kind.partition(" ")[2], model.hf, sizes, steps))
    elif kind == "trl sft":
        report("", measure_trl(model.hf, sizes, steps))
    else:
        report("", training_part(kind, model, sizes, steps, rates["matmul_gflops"]))


def run_process(command: list[str], seconds: float) -> tuple[str, str | None]:
    """What a command prints, and why it did not end well, None where it did. It and all that it
    has started are ended after so many seconds.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=_ROOT,
            start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        reason = None
        try:
            status = process.wait(timeout=max(seconds, 1))
        except subprocess.TimeoutExpired:
            reason = f"cut off after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        text = output.read()
    if reason is None and status:
        lines = [line for line in text.splitlines() if line.strip()]
        reason = f"status {status}: {lines[-1][:300] if lines else 'nothing was printed'}"
    return text, reason


def figures_in(text: str) -> dict[str, dict[str, float]]:
    """The figures that a part has printed, whole lines alone."""
    found = {}
    for line in text.splitlines():
        if line.startswith(_MARK):
            try:
                figure, numbers = json.loads(line.removeprefix(_MARK))
            except ValueError:
                continue  # it was cut off within this line
            found[figure] = numbers
    return found


def selected(shapes: list[str], only: list[str]) -> list[str]:
    """The parts that are asked for, those of the first shape first.

    Raises:
        SystemExit: a name is of no part.
    """
    names = [TESTS, *(f"{shape} {kind}" for shape in shapes for kind in PARTS)]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise SystemExit(f"there is no part {unknown[0]!r}; there are: {', '.join(names)}")
    return [name for name in names if not only or name in only]


def gpu_test_files() -> list[str]:
    """The test files with tests that are marked gpu."""
    files = sorted((_ROOT / "tests").rglob("test_*.py"))
    return [str(f) for f in files if "@pytest.mark.gpu" in f.read_text(encoding="utf-8")]


def missing(name: str) -> str | None:
    """Why a part cannot run here, None where it can."""
    if " trl " in f" {name} " and importlib.util.find_spec("trl") is None:
        return "TRL is not installed"
    return None


def measure(name: str, options: argparse.Namespace, rates: dict[str, float], left: float) -> Any:
    """One part in a process of its own: its figures, seconds, and why it did not end well."""
    why = missing(name)
    if why is None and left < 5:
        why = f"not begun: the {options.seconds} s of all parts are spent"
    if why is not None:
        return {"figures": {}, "failed": why}
    started = time.perf_counter()
    if name == TESTS:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", *gpu_test_files()]
        command += ["-p", "no:cacheprovider"]
        text, reason = run_process(command, min(left, _TEST_SECONDS))
        lines = [line for line in text.splitlines() if line.strip()]
        found: dict[str, Any] = {"figures": {}, "summary": lines[-1] if lines else ""}
    else:
        limit = PARTS[name.partition(" ")[2]]
        command = [sys.executable, str(Path(__file__)), "--part", name, "--device", options.device]
        command += ["--steps", str(options.steps), "--rates", json.dumps(rates)]
        text, reason = run_process(command, min(left, limit))
        found = {"figures": figures_in(text)}
    found["seconds"] = round(time.perf_counter() - started, 1)
    if reason is not None:
        found |= {"failed": reason, "output": text[-2000:]}
    return found


def table(told: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f"{told['device']}, torch {told['torch']}, transformers {told['transformers']}: matrix "
        f"products {told['matmul_gflops']:.0f} GFLOP/s, memory {told['bandwidth_gb']:.0f} GB/s",
        "",
        "| part | figures |",
        "| --- | --- |",
    ]
    for name, part in told["parts"].items():
        for figure, numbers in part["figures"].items():
            shown = ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
            lines.append(f"| {name}{f': {figure}' if figure else ''} | {shown} |")
        rest = [part[key] for key in ("summary", "failed") if part.get(key)]
        if rest:
            lines.append(f"| {name} | {'; '.join(rest).replace('|', '/')} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, and write the results after every part."""
    options = _options(arguments)
    if options.part:
        run_part(options.part, options.device, options.steps, json.loads(options.rates))
        return {}
    started = time.perf_counter()
    parts = selected(options.shape.split(","), [x.strip() for x in options.only.split(",") if x])
    device = torch.device(options.device)
    matmul, bandwidth = limits(device, "tiny" in options.shape)
    rates = {"matmul_gflops": matmul, "bandwidth_gb": bandwidth}
    if device.type == "cuda":
        torch.cuda.empty_cache()
    import transformers

    told: dict[str, Any] = {
        "date": str(date.today()),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        **rates,
        "parts": {},
    }
    target = Path(options.output)
    for name in parts:
        left = options.seconds - (time.perf_counter() - started)
        told["parts"][name] = measure(name, options, rates, left)
        told["seconds"] = round(time.perf_counter() - started, 1)
        target.write_text(json.dumps(told, indent=1) + "\n")
        print(f"{told['seconds']:>6.1f} s  {name}: {_line(told['parts'][name])}", flush=True)
    text = table(told)
    target.with_suffix(".md").write_text(text + "\n")
    print(f"\n{text}\n\n{target}, {target.with_suffix('.md')}")
    return told


def _line(part: dict[str, Any]) -> str:
    return part.get("failed") or part.get("summary") or f"{len(part['figures'])} figures"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="0.6b,1.7b")
    parser.add_argument("--only", default="", help="parts, with commas between them")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=470, help="of all parts together")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    default = Path(__file__).parent / "results" / f"gpu-{date.today()}.json"
    parser.add_argument("--output", default=str(default), help="file of the results")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--rates", default="{}", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --shape tiny runs the same code")
    return options


if __name__ == "__main__":
    main()
