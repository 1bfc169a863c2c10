"""Offline learning and sampling as whole runs on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import lines, stopped_and_resumed, tiny_model, told, write

from posttrain.data.encode import encode_rows
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError, ModelError
from posttrain.models.load import load_model

ROWS = [
    {
        "prompt": f"Q: {a}+{b}\nA:",
        "completion": f" {a}+{b}={c}\n#### {c}",
        "reward": float(c == a + b),
    }
    for a in range(4)
    for b in range(3)
    for c in (a + b, a + b + 1, a + b + 2)
]
WORDS = ("red", "tan", "sky")
TASK = {"name": "arithmetic", "num_examples": 10, "num_steps": 1}


def test_row_weights_need_losses_of_tokens(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{**row, "weight": 0.5} for row in ROWS])
    with pytest.raises(ConfigError, match="'gmpo' .* row 0"):
        run_recipe(method="offline", data=data, losses=["gmpo"], max_steps=1)
    run_recipe(method="offline", data=data, losses=["nll"], max_steps=1)


def same(whole: Path, half: Path, *names: str) -> None:
    assert told(whole) == told(half)
    for name in names:
        assert (whole / "model" / name).read_bytes() == (half / "model" / name).read_bytes(), name


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_resume_is_exact_with_a_critic(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path, lora: bool
) -> None:
    data = write(tmp_path / "rows.jsonl", ROWS)
    model = tiny_model(tiny_folder, {"r": 2, "alpha": 4} if lora else None)
    raw = {
        "method": "offline",
        "model": model,
        "data": data,
        "batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "critic_learning_rate": 5e-3,
    }
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **raw)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    same(whole, half, name, f"critic/{name}")
    metrics = lines(whole / "metrics.jsonl")
    # The reference is the model of the start and the critic says 0: the first implied reward and KL
    # are 0.
    assert metrics[0]["oreo/implied_reward"] == pytest.approx(0, abs=1e-5) and metrics[0][
        "kl"
    ] == pytest.approx(0, abs=1e-6)
    assert (
        metrics[0]["oreo/value"] == 0 and metrics[-1]["oreo/value"] != 0 and metrics[-1]["kl"] > 0
    )
    assert metrics[0]["loss/oreo_policy"] == pytest.approx(metrics[0]["loss/oreo_value"], rel=1e-5)


def test_a_critic_learns_the_mean_reward(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", ROWS)
    folder = run_recipe(
        method="offline",
        data=data,
        losses=["awr_critic", "value_regression"],
        critic_learning_rate=1e-2,
        learning_rate=1e-4,
        batch_size=12,
        max_steps=40,
    )
    metrics = lines(folder / "metrics.jsonl")
    assert metrics[0]["loss/value_regression"] == pytest.approx(
        1 / 3, abs=0.03
    )  # V = 0, a third of the rewards is 1
    assert (
        metrics[-1]["values"] == pytest.approx(1 / 3, abs=0.1)
        and metrics[-1]["loss/value_regression"] < 0.24
    )
    from transformers import AutoModelForTokenClassification

    critic = AutoModelForTokenClassification.from_pretrained(folder / "model" / "critic")
    assert critic.config.num_labels == 1


@pytest.mark.parametrize(
    ("losses", "more"),
    [
        ([{"name": "awr", "beta": 0.5}], {}),
        ([{"name": "awr", "beta": 0.5}], {"baseline": "none"}),
        (["nll"], {"min_reward": 1.0}),
        (["nll"], {"top_fraction": 0.33}),
        (
            [{"name": "oreo_policy", "level": "step"}, {"name": "oreo_value", "level": "step"}],
            {"critic": {"path": "embedded", "dtype": "float32"}},
        ),
        (
            [
                {"name": "oreo_policy", "level": "sequence"},
                {"name": "oreo_value", "level": "sequence"},
            ],
            {},
        ),
    ],
    ids=["awr", "rwr", "cloning", "top", "step", "dro"],
)
def test_it_learns_what_was_rewarded(
    run_recipe: Callable[..., Path], tmp_path: Path, losses: list[Any], more: dict[str, Any]
) -> None:
    """A colour is rewarded, two are not: afterwards it is the likelier, by 0.5 nats and more."""
    rows = [
        {"prompt": f"Q: {i}\nA:", "completion": f" {word}", "reward": float(word == "red")}
        for i in range(6)
        for word in WORDS
    ]
    data = write(tmp_path / "rows.jsonl", rows)
    folder = run_recipe(
        method="offline",
        data=data,
        losses=losses,
        batch_size=6,
        max_steps=12,
        learning_rate=2e-3,
        **more,
    )
    model = load_model(str(folder / "model"), dtype="float32")
    encoded = encode_rows(rows, model.tokenizer)
    scores = TorchEngine(model).score(
        [(s.ids.tolist(), int(s.loss_mask.argmax())) for s in encoded.sequences]
    )
    sums = torch.tensor([sum(x) for x in scores]).view(-1, 3)
    assert float((sums[:, 0] - sums[:, 1:].mean(1)).mean()) > 0.5


def test_labels_count_as_rewards(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    rows = [
        {"prompt": r["prompt"], "completion": r["completion"], "label": r["reward"] > 0}
        for r in ROWS
    ]
    raw = {"method": "offline", "batch_size": 12, "max_steps": 2, "learning_rate": 1e-3}
    a = run_recipe(**raw, data=write(tmp_path / "a.jsonl", ROWS), output=str(tmp_path / "a"))
    b = run_recipe(**raw, data=write(tmp_path / "b.jsonl", rows), output=str(tmp_path / "b"))
    same(a, b, "model.safetensors", "critic/model.safetensors")


def test_bad_rows_are_refused(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    def refused(
        error: type[Exception], message: str, rows: list[dict[str, Any]], **more: Any
    ) -> None:
        with pytest.raises(error, match=message):
            run_recipe(method="offline", data=write(tmp_path / "rows.jsonl", rows), **more)
        assert not (tmp_path / "run").exists()

    good = ROWS[0]
    refused(DataError, "row 1 has no reward; .* data.columns", [good, {**good, "reward": None}])
    refused(DataError, "row 0 has no reward", [{"prompt": "a", "completion": "b"}])
    refused(
        DataError,
        "row 1: reward is nan; it must be a finite number",
        [good, {**good, "reward": float("nan")}],
    )
    refused(DataError, "row 1: reward is 'high'", [good, {**good, "reward": "high"}])
    refused(DataError, r"row 1: not a rewarded row \(TypeError", [good, {**good, "reward": [1]}])
    refused(
        DataError,
        "no row has a reward of at least 2; the 2 rows reach from 1 to 1",
        [good, good],
        min_reward=2.0,
    )
    refused(
        DataError,
        "every one of the 1 prompts has a single completion.*baseline: data",
        [good],
        losses=["awr"],
    )
    refused(ConfigError, "top_fraction: 0.0 must be above 0", [good], top_fraction=0.0)
    refused(
        ConfigError,
        r"critic: none of the losses \(nll\) asks for values",
        [good],
        losses=["nll"],
        critic="embedded",
    )
    refused(
        ConfigError, "critic_learning_rate: -1.0 must be above 0", [good], critic_learning_rate=-1.0
    )
    refused(ConfigError, "step_separator: it is empty", [good], step_separator="")
    refused(ConfigError, "'kto' needs", [good], losses=["kto"])
    refused(ConfigError, "'opsm' needs 'engine_logprobs'", [good], losses=["opsm"])
    refused(ModelError, "no model folder ./none", [good], critic="./none")
    refused(ConfigError, "'dpo' compares a chosen with a rejected", [good], losses=["dpo"])


def test_steps_end_with_their_separator(tiny_tokenizer: Any) -> None:
    from posttrain.methods.offline import _add_steps

    (s,) = encode_rows([{"prompt": "a\nb", "completion": "1\n22\n3"}], tiny_tokenizer).sequences
    _add_steps([s], tiny_tokenizer, "\n")
    assert s.streams["step"][s.loss_mask].tolist() == [
        0,
        0,
        1,
        1,
        1,
        2,
        2,
    ]  # the last is EOS; the prompt's line counts not


# -- sampling

SAMPLE = {
    "method": "sample",
    "task": TASK,
    "rewards": [{"name": "length", "target": 6}],
    "num_generations": 3,
    "batch_size": 4,
    "sampling": {"max_tokens": 12},
    "keep_truncated": True,
}


def test_sampling_writes_rows_that_are_learnt_from(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    folder = run_recipe(**SAMPLE)
    rows = lines(folder / "samples.jsonl")
    (metrics,) = lines(folder / "metrics.jsonl")
    assert len({r["id"] for r in rows}) == 10 and len(rows) == metrics["filter/num_kept"] <= 30
    assert {"prompt", "completion", "reward", "answer", "id"} == rows[0].keys()
    assert metrics["reward"] == pytest.approx(sum(r["reward"] for r in rows) / len(rows), abs=0.1)
    assert not (folder / "parts").exists()
    for method in ("offline", "sft"):
        run_recipe(
            method=method,
            data=str(folder / "samples.jsonl"),
            max_steps=1,
            output=str(tmp_path / method),
        )


def test_sampling_goes_on_where_it_stopped(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    from posttrain.sources.collect import Collector
    from posttrain.training.ending import Interrupted

    whole = run_recipe(**SAMPLE, output=str(tmp_path / "whole"))
    drawn = Collector.sample
    counts: list[int] = []

    def stop(collector: Collector, prompts: Any, seeds: Any) -> Any:
        counts.append(len(prompts))
        if len(counts) == 2:
            raise KeyboardInterrupt
        return drawn(collector, prompts, seeds)

    half = tmp_path / "half"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Collector, "sample", stop)
        with pytest.raises(Interrupted, match=f"posttrain resume {half}"):
            run_recipe(**SAMPLE, output=str(half))
        assert not (half / "samples.jsonl").exists()
        run_recipe(**SAMPLE, output=str(half), resume=True)
    assert (
        len(counts) == 4
    )  # of three batches the second twice: what was sampled is not sampled again
    assert (whole / "samples.jsonl").read_bytes() == (half / "samples.jsonl").read_bytes()


def test_rejection_sampling_that_keeps_nothing_says_so(run_recipe: Callable[..., Path]) -> None:
    with pytest.raises(
        DataError,
        match=r"cut at the length limit.*0 of 30 .*at least min_reward 2, a pass rate of "
        r"0%.*easier",
    ):
        run_recipe(**{**SAMPLE, "min_reward": 2.0})


def test_failed_rewards_are_left_out_and_counted(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    plugin = tmp_path / "fussy.py"
    plugin.write_text(
        "from posttrain.registry import rewards\n\n\n@rewards.register\ndef fussy(completions, "
        "examples):\n"
        '    """Fails for some."""\n'
        "    return [float('nan') if e.id.endswith('3') else 1.0 for e in examples]\n"
    )
    folder = run_recipe(**{**SAMPLE, "plugins": [str(plugin)], "rewards": ["fussy"]})
    rows, (metrics,) = lines(folder / "samples.jsonl"), lines(folder / "metrics.jsonl")
    assert metrics["rewards/errors"] == 3 and not any(r["id"].endswith("-3") for r in rows) and rows


def test_chat_prompts_give_chat_rows(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = write(
        tmp_path / "task.jsonl",
        [{"prompt": [{"role": "user", "content": "1+1?"}], "answer": "2", "id": "x"}],
    )
    folder = run_recipe(
        **{
            **SAMPLE,
            "task": {"name": "jsonl", "path": path, "system": "Be brief.", "max_tokens": 12},
        }
    )
    row = lines(folder / "samples.jsonl")[0]
    assert [m["role"] for m in row["prompt"]] == ["system", "user"] and row["completion"][0][
        "role"
    ] == "assistant"
    run_recipe(
        method="offline",
        data=str(folder / "samples.jsonl"),
        max_steps=1,
        output=str(tmp_path / "offline"),
    )


def test_a_pipeline_hands_rows_on(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    from posttrain.recipe import parse_recipe
    from posttrain.runs import run_of

    stages = [
        {"name": "draw", **SAMPLE},
        {"name": "oreo", "method": "offline", "data": "stage:draw/samples.jsonl", "max_steps": 1},
        {
            "name": "again",
            "method": "sft",
            "model": "stage:oreo/model",
            "data": {"path": "stage:draw/samples.jsonl"},
            "max_steps": 1,
        },
    ]
    folder = run_recipe(method="pipeline", stages=stages)
    assert (folder / "oreo" / "model" / "critic").is_dir() and (folder / "again" / "model").is_dir()
    with pytest.raises(
        ConfigError,
        match="'stage:drew/samples.jsonl' must be stage:NAME/FILE of an earlier stage: did you",
    ):
        run_recipe(
            method="pipeline", stages=[stages[0], {**stages[1], "data": "stage:drew/samples.jsonl"}]
        )
    raw = {
        "method": "pipeline",
        "model": "embedded",
        "stages": stages,
        "output": str(tmp_path / "other"),
    }
    assert any(
        name.strip() == "waits for"
        for name, _ in run_of(parse_recipe(raw, tmp_path)).prepared().facts
    )


# -- the critic guides a search


def test_value_beam_needs_a_critic_and_finds_it(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    evaluation = {
        "task": {**TASK, "split": "test"},
        "num_examples": 3,
        "sampling": {"max_tokens": 12},
    }
    search = {"name": "value_beam", "num_beams": 2, "max_steps": 3}
    with pytest.raises(ConfigError, match="asks for values, and the model .* has no critic"):
        run_recipe(method="evaluate", evaluation=evaluation, search=search)
    data = write(tmp_path / "rows.jsonl", ROWS)
    trained = run_recipe(
        method="offline",
        data=data,
        max_steps=1,
        learning_rate=1e-3,
        output=str(tmp_path / "trained"),
    )
    folder = run_recipe(
        method="evaluate",
        model={"path": str(trained / "model"), "dtype": "float32"},
        evaluation=evaluation,
        search=search,
    )
    told = json.loads((folder / "evaluation.json").read_text())
    assert told["search"] == "value_beam" and all(o["num_tokens"][0] > 12 for o in told["examples"])


@pytest.mark.slow
def test_oreo_raises_accuracy(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """From rollouts of the embedded model alone, against that model on the same held-out
    problems, paired (seed 0).
    """
    from posttrain.evaluation.comparison import compare
    from posttrain.evaluation.outcomes import read_evaluation

    problem = {"name": "arithmetic", "num_steps": 2, "max_operand": 60, "max_value": 249}
    folder = run_recipe(
        method="pipeline",
        model={"path": "embedded", "dtype": "float32"},
        evaluation={
            "task": {**problem, "split": "test", "num_examples": 150, "seed": 1},
            "num_examples": 150,
            "num_samples": 4,
        },
        stages=[
            {"name": "base", "method": "evaluate"},
            {
                "name": "draw",
                "method": "sample",
                "task": {**problem, "num_examples": 200},
                "num_generations": 8,
            },
            {
                "name": "oreo",
                "method": "offline",
                "data": "stage:draw/samples.jsonl",
                "batch_size": 16,
                "learning_rate": 3e-4,
                "losses": [
                    {"name": "oreo_policy", "beta": 0.1},
                    {"name": "oreo_value", "beta": 0.1},
                    {"name": "reference_kl", "weight": 0.01},
                ],
                "num_train_epochs": 2,
            },
        ],
    )
    difference = compare(
        read_evaluation(folder / "base"), read_evaluation(folder / "oreo")
    ).difference
    assert difference.low > 0.02, difference
