"""Distillation as whole runs on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import lines, stopped_and_resumed, tiny_model, told, write

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import ConfigError, DataError, ModelError

TASK = {"name": "arithmetic", "num_examples": 40, "num_steps": 1}
ROWS = [
    {"prompt": f"Q: {a}+{b}\nA:", "completion": f" {a + b}"} for a in range(6) for b in range(4)
]
FAST: dict[str, Any] = {
    "method": "distill",
    "teacher": "embedded",
    "batch_size": 4,
    "max_steps": 3,
}
SAMPLED = {**FAST, "sampling": {"max_tokens": 8}}


def test_the_metrics_are_the_distance_to_the_teacher(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    """The held-out forward KL from plain forward passes of both models."""
    from importlib.resources import files

    from transformers import AutoModelForCausalLM, AutoTokenizer

    data = write(tmp_path / "rows.jsonl", ROWS[:5])
    folder = run_recipe(**FAST, data=data, eval_data=data, learning_rate=1e-3, eval_every=3)
    last = lines(folder / "metrics.jsonl")[-1]
    teacher_folder = files("posttrain") / "assets" / "base"
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(f).eval()
        for f in (folder / "model", str(teacher_folder))
    )
    totals, count = {"forward": 0.0, "jsd": 0.0}, 0
    for row in ROWS[:5]:
        before = tokenizer(row["prompt"])["input_ids"]
        ids = (
            before
            + tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
            + [tokenizer.eos_token_id]
        )
        with torch.no_grad():
            p, q = (
                m(torch.tensor([ids])).logits[0, len(before) - 1 : -1].double().softmax(-1)
                for m in (student, teacher)
            )
        m = (p + q) / 2
        totals["forward"] += float((q * (q / p).log()).sum())
        totals["jsd"] += float((q * (q / m).log() + p * (p / m).log()).sum() / 2)
        count += len(ids) - len(before)
    assert last["eval_teacher_kl/forward"] == pytest.approx(totals["forward"] / count, rel=1e-3)
    assert last["eval_loss"] == pytest.approx(totals["jsd"] / count, rel=1e-3)
    assert "teacher_kl/reverse" in last and last["on_policy"] == 0


@pytest.mark.parametrize(
    ("losses", "lora"),
    [(["jsd"], False), ([{"name": "sampled_reverse_kl", "horizon": "sequence"}], True)],
    ids=["jsd-full", "sampled-lora"],
)
def test_resume_is_exact_on_policy(
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    tiny_folder: Path,
    losses: list[Any],
    lora: bool,
) -> None:
    model = tiny_model(tiny_folder, {"r": 2, "dropout": 0.1} if lora else None)
    lmbda = 0.6 if losses == ["jsd"] else 1
    raw = {
        **SAMPLED,
        "model": model,
        "task": TASK,
        "losses": losses,
        "lmbda": lmbda,
        "max_steps": 6,
        "learning_rate": 1e-3,
    }
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **raw)
    assert told(whole) == told(half) and len(told(whole)) == 6
    if lmbda < 1:
        assert {row["on_policy"] for row in told(whole)} == {0.0, 1.0}
    on_policy = [
        row for row in told(whole) if row["on_policy"] and not lora
    ]  # dropout tells the two apart
    assert all(row["sampling/sampling_logp_difference/max"] < 1e-3 for row in on_policy)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert (whole / "model" / name).read_bytes() == (half / "model" / name).read_bytes()
    assert (whole / "rollouts.jsonl").read_text() == (half / "rollouts.jsonl").read_text()


def test_the_teacher_writes(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """With seq_kd the rows are samples of the teacher: the same as its own engine gives."""
    from importlib.resources import files

    from posttrain.engines.torch import TorchEngine
    from posttrain.models.load import load_model
    from posttrain.types import Request, Sampling

    rows = [{"prompt": "12+3=", "id": "a"}]
    raw = {
        **SAMPLED,
        "max_steps": 1,
        "batch_size": 1,
        "num_generations": 3,
        "data": write(tmp_path / "p.jsonl", rows),
    }
    folder = run_recipe(
        **raw, losses=["nll", {"name": "teacher_kl", "weight": 0.0}], seq_kd=True, seed=5
    )
    told = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    model = load_model(str(files("posttrain") / "assets" / "base"), dtype="float32")
    seed = int(np.random.default_rng((5, 0, 7)).integers(0, 2**62, size=1)[0])
    ids = tuple(model.tokenizer("12+3=")["input_ids"])
    (group,) = TorchEngine(model).generate([Request(ids, Sampling(max_tokens=8), n=3, seed=seed)])
    expected = [model.tokenizer.decode(s.ids, skip_special_tokens=True) for s in group]
    text = json.dumps(told)
    assert all(json.dumps(e)[1:-1] in text for e in expected)
    assert lines(folder / "metrics.jsonl")[0]["on_policy"] == 0


def test_uld_trains_across_tokenizers(
    run_recipe: Callable[..., Path], tmp_path: Path, other_tokenizer: Path
) -> None:
    raw = {
        **FAST,
        "teacher": str(other_tokenizer),
        "data": write(tmp_path / "rows.jsonl", ROWS),
        "max_steps": 12,
    }
    folder = run_recipe(**raw, losses=["nll", {"name": "uld", "weight": 1.5}], learning_rate=3e-3)
    metrics = lines(folder / "metrics.jsonl")
    assert (
        metrics[-1]["loss/uld"] < metrics[0]["loss/uld"]
        and metrics[-1]["loss/nll"] < metrics[0]["loss/nll"]
    )
    folder = run_recipe(
        **{**raw, **SAMPLED, "teacher": str(other_tokenizer), "max_steps": 2},
        losses=["uld"],
        lmbda=1,
        output=str(tmp_path / "own"),
    )
    assert lines(folder / "metrics.jsonl")[-1]["on_policy"] == 1


def test_bad_input(run_recipe: Callable[..., Path], tmp_path: Path, other_tokenizer: Path) -> None:
    data = write(tmp_path / "rows.jsonl", ROWS)

    def refused(error: type[Exception], message: str, **changes: Any) -> None:
        with pytest.raises(error, match=message):
            run_recipe(**{**FAST, "data": data, **changes})
        assert not (tmp_path / "run").exists()

    refused(ConfigError, r"teacher.*uld", teacher=str(other_tokenizer))
    refused(ModelError, "/nowhere/at/all", teacher="/nowhere/at/all")
    refused(ConfigError, "weight -1", losses=[{"name": "jsd", "weight": -1}])
    refused(ConfigError, "losses: .*jsd", losses=["nll"])
    refused(ConfigError, "lmbda: 1.5", lmbda=1.5)
    refused(
        ConfigError,
        "seq_kd: .*lmbda",
        lmbda=1,
        seq_kd=True,
    )
    refused(ConfigError, "num_generations: .*lmbda: 0", num_generations=2)
    refused(ConfigError, "sampling: .*lmbda: 0", sampling={"max_tokens": 8})
    refused(ConfigError, "num_generations: 0", num_generations=0)
    refused(
        ConfigError,
        "'sampled_reverse_kl'",
        losses=["sampled_reverse_kl"],
    )
    refused(ConfigError, "data.*task", task=TASK)
    text = write(tmp_path / "text.jsonl", [{"text": "plain"}])
    refused(DataError, "row 0 .*prompt", data=text, lmbda=0.5)
    with pytest.raises(ConfigError, match="'teacher'"):
        run_recipe(method="distill", data=data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("losses", "lmbda"),
    [
        ([{"name": "teacher_kl"}], 0.0),
        ([{"name": "teacher_kl", "direction": "reverse"}], 1.0),
        (["sampled_reverse_kl"], 1.0),
    ],
    ids=["data", "on-policy", "sampled"],
)
def test_a_distilled_student_is_nearer_its_teacher(
    run_recipe: Callable[..., Path], tmp_path: Path, losses: list[Any], lmbda: float
) -> None:
    """The student is the teacher with some noise in its weights. Paired over held-out problems,
    far beyond their spread.
    """
    from importlib.resources import files

    from posttrain.models.load import load_model
    from posttrain.registry import tasks

    base = str(files("posttrain") / "assets" / "base")
    teacher = load_model(base, dtype="float32")
    damaged = load_model(base, dtype="float32")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in damaged.hf.named_parameters():
            if "down_proj" in name:
                parameter += 1.5 * parameter.std() * torch.randn(parameter.shape, generator=draw)
    damaged.save(tmp_path / "damaged")
    folder = run_recipe(
        method="distill",
        model={"path": str(tmp_path / "damaged"), "dtype": "float32"},
        teacher="embedded",
        losses=losses,
        lmbda=lmbda,
        task={"name": "arithmetic", "num_examples": 200, "num_steps": 1},
        batch_size=16,
        max_steps=25,
        sampling={"max_tokens": 16} if lmbda else {},
        learning_rate=3e-4,
    )
    examples = tasks.bind(
        "arithmetic", {"num_examples": 30, "num_steps": 1, "split": "test", "seed": 3}
    )().examples
    forest_of = []
    for e in examples:
        before = teacher.tokenizer(e.prompt)["input_ids"]
        ids = np.array(
            [*before, *teacher.tokenizer(e.completion, add_special_tokens=False)["input_ids"]]
        )
        forest_of.append(
            Forest.pack([Tree.build([TokenSequence(ids, np.arange(len(ids)) >= len(before))])])
        )

    def distances(student: Any) -> np.ndarray:
        student.teacher = teacher
        found = []
        with torch.no_grad():
            for forest in forest_of:
                vocabulary = student.forward(forest, {"distribution", "teacher_distribution"})[
                    "vocabulary"
                ]
                kl = vocabulary.apply(
                    lambda p, q: (q.exp() * (q - p)).sum(-1),
                    ("distribution", "teacher_distribution"),
                    {},
                )
                found.append(float(kl.mean()))
        return np.array(found)

    first, last = distances(damaged), distances(load_model(folder / "model", dtype="float32"))
    gain = first - last
    assert last.mean() < 0.7 * first.mean()
    assert gain.mean() > 4 * gain.std(ddof=1) / len(gain) ** 0.5
