"""Models of scores as whole runs: what they learn, what they leave for transformers, and what
they refuse.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import lines, stopped_and_resumed, tiny_model, told, write
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from posttrain.errors import ConfigError, DataError, ModelError


def sums(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Additions with a right and a wrong worked completion of the same shape."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        a, b = draw.randint(0, 20), draw.randint(0, 20)
        wrong = a + b + draw.choice([-2, -1, 1, 2])
        rows.append(
            {
                "prompt": f"Q: {a}+{b}\nA:",
                "good": f" {a}+{b}={a + b}\n#### {a + b}",
                "bad": f" {a}+{b}={wrong}\n#### {wrong}",
            }
        )
    return rows


def pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": r["prompt"], "chosen": r["good"], "rejected": r["bad"]}
        for r in sums(count, seed)
    ]


def labelled(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": r["prompt"], "completion": r[k], "label": k == "good"}
        for r in sums(count, seed)
        for k in ("good", "bad")
    ]


def stepwise(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The last step copies the number before it and is right if that is."""
    return [
        {"prompt": r["prompt"], "completions": r[k].split("\n"), "labels": [k == "good"] * 2}
        for r in sums(count, seed)
        for k in ("good", "bad")
    ]


def rewarded(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rows = [
        {"prompt": r["prompt"], "completion": r[k], "reward": float(k == "good")}
        for r in sums(count, seed)
        for k in ("good", "bad")
    ]
    return [*rows, {**rows[0], "completion": " 1", "reward": 0.0}, {**rows[0], "reward": None}]


LISTWISE = [
    {"prompt": r["prompt"], "completions": [r["bad"], r["good"], " 1"], "ranks": [2, 1, 3]}
    for r in sums(8)
]
KINDS: list[tuple[str, list[dict[str, Any]], list[str], str]] = [
    ("bradley_terry", pairs(8), [], "sequence"),
    ("plackett_luce", LISTWISE, [], "sequence"),
    ("outcome", labelled(8), [], "token"),
    ("binary", labelled(8), ["binary"], "sequence"),
    ("process", stepwise(8), [], "token"),
    ("regression", rewarded(8), [], "sequence"),
    ("plackett_luce", rewarded(8), ["plackett_luce"], "sequence"),
    ("bradley_terry", rewarded(8), ["bradley_terry"], "sequence"),
    ("outcome", rewarded(8), ["outcome"], "token"),
]


@pytest.mark.parametrize(
    ("loss", "rows", "losses", "per"), KINDS, ids=[f"{k[0]}-{i}" for i, k in enumerate(KINDS)]
)
def test_every_kind_of_rows_trains_and_is_measured(
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    loss: str,
    rows: list[dict[str, Any]],
    losses: list[str],
    per: str,
) -> None:
    data = {"path": write(tmp_path / "rows.jsonl", rows), "max_masked": 0.9}
    raw = {"losses": losses} if losses else {}
    folder = run_recipe(
        method="reward_model",
        data=data,
        eval_data=data,
        batch_size=4,
        max_steps=12,
        learning_rate=3e-3,
        **raw,
    )
    metrics = lines(folder / "metrics.jsonl")
    assert metrics[0]["eval_loss"] > metrics[-1]["eval_loss"]
    assert metrics[0]["eval_min_reward"] == metrics[0]["eval_max_reward"] == 0.0  # a fresh head
    assert {"loss", "min_reward", "mean_reward", "max_reward", "grad_norm"} <= metrics[-1].keys()
    if loss != "regression":
        assert 0 <= metrics[-1]["eval_accuracy"] <= 1
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["architectures"][0].endswith(
        "ForSequenceClassification" if per == "sequence" else "ForTokenClassification"
    )


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_what_it_leaves_gives_the_same_scores_in_transformers(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path, lora: bool
) -> None:
    """The held-out accuracy and margin, from the saved folder by transformers, one batch with
    padding.
    """
    rows = pairs(12)
    data = write(tmp_path / "pairs.jsonl", rows)
    model = tiny_model(tiny_folder, {"r": 4} if lora else None)
    folder = run_recipe(
        method="reward_model",
        model=model,
        data=data,
        eval_data=data,
        batch_size=6,
        max_steps=6,
        learning_rate=1e-2,
    )
    told = lines(folder / "metrics.jsonl")[-1]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert tokenizer.chat_template and tokenizer.pad_token_id != tokenizer.eos_token_id
    if lora:
        from peft import PeftModel

        base = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=1)
        theirs: Any = PeftModel.from_pretrained(base, folder / "model").eval()
    else:
        theirs = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    texts = [r["prompt"] + r[k] + tokenizer.eos_token for r in rows for k in ("chosen", "rejected")]
    with torch.no_grad():
        scores = (
            theirs(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0].view(-1, 2)
        )
    assert told["eval_margin"] == pytest.approx(
        float((scores[:, 0] - scores[:, 1]).mean()), abs=1e-5
    )
    assert told["eval_accuracy"] == pytest.approx(
        float((scores[:, 0] > scores[:, 1]).float().mean()), abs=1e-6
    )


def test_a_process_model_in_transformers(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    from posttrain.rewards.model import reward_model

    rows = stepwise(6)
    folder = run_recipe(
        method="reward_model",
        data=write(tmp_path / "rows.jsonl", rows),
        batch_size=6,
        max_steps=6,
        learning_rate=1e-2,
    )
    theirs = AutoModelForTokenClassification.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prompts, texts = [r["prompt"] for r in rows], ["\n".join(r["completions"]) for r in rows]
    expected = []
    for prompt, text in zip(prompts, texts, strict=True):
        ids = (
            tokenizer(prompt)["input_ids"]
            + tokenizer(text + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        )
        with torch.no_grad():
            expected.append(float(theirs(input_ids=torch.tensor([ids])).logits[0, -1, 0].sigmoid()))
    assert reward_model(prompts, texts, path=str(folder / "model"), device="cpu") == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_resume_is_exact(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path, lora: bool
) -> None:

    data = write(tmp_path / "pairs.jsonl", pairs(12))
    model = tiny_model(tiny_folder, {"r": 2} if lora else None)
    raw = {
        "method": "reward_model",
        "model": model,
        "data": data,
        "batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "eval_data": data,
    }
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **raw)
    assert told(whole) == told(half) and len(told(whole)) == 7
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert (whole / "model" / name).read_bytes() == (half / "model" / name).read_bytes()


def test_a_score_model_is_trained_on(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """From the model of one run to the next: its scores are where they were."""
    data = write(tmp_path / "pairs.jsonl", pairs(8))
    raw = {
        "method": "reward_model",
        "data": data,
        "eval_data": data,
        "batch_size": 8,
        "max_steps": 3,
        "learning_rate": 1e-2,
    }
    first = run_recipe(**raw, output=str(tmp_path / "first"))
    second = run_recipe(
        **raw,
        model={"path": str(first / "model"), "dtype": "float32"},
        output=str(tmp_path / "second"),
    )
    end, start = lines(first / "metrics.jsonl")[-1], lines(second / "metrics.jsonl")[0]
    assert (
        start["eval_loss"] == pytest.approx(end["eval_loss"], abs=1e-6)
        and start["eval_margin"] != 0
    )


def test_margins_and_soft_labels_reach_the_loss(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    import math

    rows = [{**r, "margin": 2.0, "probability": 0.75} for r in pairs(4)]
    data = write(tmp_path / "pairs.jsonl", rows)
    for number, (loss, expected) in enumerate(
        (("bradley_terry", math.log1p(math.exp(2))), ("soft_bradley_terry", math.log(2)))
    ):
        folder = run_recipe(
            method="reward_model",
            data=data,
            losses=[loss],
            batch_size=4,
            max_steps=1,
            output=str(tmp_path / f"r{number}"),
        )
        assert lines(folder / "metrics.jsonl")[0]["loss"] == pytest.approx(expected, rel=1e-6)


def test_chat_pairs_are_scored_at_the_end_of_the_turn(tiny_tokenizer: Any) -> None:
    from posttrain.data.scored import encode_scores

    user = {"role": "user", "content": "hi"}
    row = {
        "prompt": [user],
        "chosen": [{"role": "assistant", "content": "hello"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
    encoded = encode_scores([row], tiny_tokenizer)
    rendered = tiny_tokenizer.apply_chat_template([user, *row["chosen"]], tokenize=False).rstrip()
    chosen = encoded.sequences[0]
    assert (
        tiny_tokenizer.decode(chosen.ids) == rendered
        and chosen.loss_mask.sum() == 1
        and chosen.loss_mask[-1]
    )
    whole = encode_scores(
        [{"chosen": "Human: a Assistant: b", "rejected": "Human: a Assistant: c"}], tiny_tokenizer
    )
    assert [s.loss_mask.sum() for s in whole.sequences] == [
        1,
        1,
    ]  # a dialogue in one text needs no prompt


def test_what_is_refused(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    def refused(
        error: type[Exception], message: str, rows: list[dict[str, Any]], **more: Any
    ) -> None:
        data = {"path": write(tmp_path / "rows.jsonl", rows), **more.pop("data", {})}
        with pytest.raises(error, match=message):
            run_recipe(method="reward_model", data=data, **more)
        assert not (tmp_path / "run").exists()

    prompted = {"path": str(tiny_folder), "adapter": "prefix"}
    refused(ModelError, "'prefix' puts tokens before a language model's", pairs(3), model=prompted)
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    refused(DataError, "2 of 5 rows have equal completions", [*pairs(3), same, same])
    refused(DataError, "no row is left to train on: of 1 rows 1 have equal", [same])
    refused(DataError, "column 'rejected' is empty", [*pairs(3), {**same, "rejected": ""}])
    refused(
        DataError,
        "says nothing about which completion is good",
        [{"prompt": "a", "completion": "b"}],
    )
    refused(DataError, "every label is 1", [r for r in labelled(4) if r["label"]])
    refused(DataError, "every label is 1", [r for r in stepwise(4) if all(r["labels"])])
    refused(DataError, "2 completions but 1 labels", [{**stepwise(1)[0], "labels": [True]}])
    refused(
        DataError, "neither true nor false nor a share", [{**stepwise(1)[0], "labels": [True, 2]}]
    )
    refused(
        DataError,
        r"completions\[1\] contains the step separator",
        [{"prompt": "a", "completions": ["x", "y\nz"], "labels": [1, 0]}],
    )
    refused(
        DataError,
        r"completions\[1\] is ' '",
        [{"prompt": "a", "completions": ["x", " "], "labels": [1, 0]}],
    )
    refused(DataError, "3 completions but 2 ranks", [{**LISTWISE[0], "ranks": [1, 2]}])
    refused(DataError, "equal rewards", [{**LISTWISE[0], "ranks": [1, 1, 1]}])
    refused(DataError, "probability is 1.5", [{**pairs(1)[0], "probability": 1.5}])
    refused(
        DataError,
        "a reward is 0.5",
        [{**r, "reward": 0.5} for r in rewarded(2)],
        losses=["outcome"],
    )
    refused(
        DataError,
        "no prompt has two completions",
        [{**rewarded(1)[0], "id": "x"}],
        losses=["bradley_terry"],
    )
    refused(
        DataError,
        "row 0 has .* tokens, data.max_length is 8",
        pairs(2),
        data={"max_length": 8, "truncation": "error"},
    )
    refused(ConfigError, "'dpo' needs 'chosen', which a score model", pairs(2), losses=["dpo"])
    refused(
        ConfigError,
        "'plackett_luce' needs 'reward'.*is 'bradley_terry'",
        pairs(2),
        losses=["plackett_luce"],
    )
    refused(ConfigError, "train_on", pairs(2), data={"train_on": "last"})
    refused(ConfigError, "step_separator: it is empty", pairs(2), step_separator="")
    others = write(tmp_path / "others.jsonl", labelled(2))
    refused(
        ConfigError, "eval_data: rows of format unpaired preference", pairs(2), eval_data=others
    )
    several = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=3)
    several.save_pretrained(tmp_path / "three")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "three")
    refused(
        ModelError,
        "has 3 labels; a score is one number",
        pairs(2),
        model={"path": str(tmp_path / "three")},
    )


def letters(count: int, seed: int) -> list[dict[str, Any]]:
    """Solutions of three steps, of which the first wrong one, if any, is the first that holds a
    z.
    """
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        steps = [
            "".join(draw.choice("abcde" if draw.random() < 0.9 else "z") for _ in range(3))
            for _ in range(3)
        ]
        bad = next((i for i, step in enumerate(steps) if "z" in step), len(steps))
        rows.append(
            {"prompt": "go:\n", "completions": steps, "labels": [i < bad for i in range(3)]}
        )
    return rows


def test_outcome_and_process_models_learn_what_makes_a_step_wrong(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """From random weights (seed 0): whether a z has been written, told at the end of each step,
    and of the whole.
    """
    raw = {"method": "reward_model", "batch_size": 32, "num_train_epochs": 6, "learning_rate": 1e-2}
    files = [write(tmp_path / f"steps{i}.jsonl", letters(n, i)) for i, n in enumerate((256, 80))]
    told = lines(
        run_recipe(**raw, data=files[0], eval_data=files[1], output=str(tmp_path / "process"))
        / "metrics.jsonl"
    )
    assert told[0]["eval_auc"] == 0.5 and told[-1]["eval_auc"] > 0.9
    assert (
        told[-1]["eval_accuracy"] > told[0]["eval_accuracy"]
        and told[-1]["eval_first_error_f1"] > 0.7
    )
    whole = [
        write(
            tmp_path / f"whole{i}.jsonl",
            [
                {
                    "prompt": r["prompt"],
                    "completion": "\n".join(r["completions"]),
                    "label": all(r["labels"]),
                }
                for r in letters(n, i)
            ],
        )
        for i, n in enumerate((256, 80))
    ]
    told = lines(
        run_recipe(**raw, data=whole[0], eval_data=whole[1], output=str(tmp_path / "outcome"))
        / "metrics.jsonl"
    )
    assert told[0]["eval_auc"] == 0.5 and told[-1]["eval_auc"] > 0.9


@pytest.mark.slow
def test_a_reward_model_learns_sums_and_chooses_the_best_of_four(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """From the embedded model, on problems that it was not trained on, where chance is 1/2 of
    two and 1/4 of four (seed 0).
    """
    from posttrain.evaluation.statistics import paired_bootstrap
    from posttrain.rewards.model import reward_model

    problems = [(a, b) for a in range(21) for b in range(21)]
    random.Random(0).shuffle(problems)
    draw = random.Random(0)

    def worked(a: int, b: int, total: int) -> str:
        return f" {a}+{b}={total}\n#### {total}"

    def wrong(total: int) -> list[int]:
        return draw.sample([total + d for d in (-3, -2, -1, 1, 2, 3) if total + d >= 0], 3)

    rows = [
        {
            "prompt": f"Q: {a}+{b}\nA:",
            "chosen": worked(a, b, a + b),
            "rejected": worked(a, b, wrong(a + b)[0]),
        }
        for a, b in problems[88:] * 2 + problems[:88]
    ]
    data, held = (
        write(tmp_path / "rows.jsonl", rows[:-88]),
        write(tmp_path / "held.jsonl", rows[-88:]),
    )
    folder = run_recipe(
        method="reward_model",
        model={"path": "embedded", "dtype": "float32"},
        data=data,
        eval_data=held,
        batch_size=16,
        num_train_epochs=3,
        learning_rate=5e-4,
        warmup_steps=0.1,
    )
    metrics = lines(folder / "metrics.jsonl")
    assert metrics[0]["eval_accuracy"] == 0.5 and metrics[-1]["eval_accuracy"] > 0.7
    prompts, texts = [], []
    for a, b in problems[:88]:
        prompts += [f"Q: {a}+{b}\nA:"] * 4
        texts += [worked(a, b, total) for total in (a + b, *wrong(a + b))]
    scores = torch.tensor(
        reward_model(prompts, texts, path=str(folder / "model"), device="cpu")
    ).view(-1, 4)
    gained = paired_bootstrap([0.25] * 88, (scores.argmax(1) == 0).double().numpy())
    assert gained.low > 0.1
