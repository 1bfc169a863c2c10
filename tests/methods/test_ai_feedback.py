"""Rows that models write: step labels, judged preferences, revisions; what evaluates scores;
searches guided by a reward.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.formats import detect_format
from posttrain.data.rows import load_rows
from posttrain.errors import ConfigError, ModelError
from posttrain.sources.step_labels import Solution, StepLabeller
from posttrain.types import Example, Request, Sample, Sampling

TASK = {"name": "arithmetic", "num_examples": 6, "num_steps": 2}
EMBEDDED = {"path": "embedded", "dtype": "float32"}


class Digits:
    """An engine on digits: a continuation adds one token that is 1 (right) for the first
    `luck[sum of the prefix]` samples.
    """

    weights_version = 0

    def __init__(self, luck: Callable[[tuple[int, ...]], int]) -> None:
        self.luck, self.requests = luck, []  # type: ignore[var-annotated]

    def generate(self, requests: list[Request]) -> list[list[Sample]]:
        self.requests += requests
        return [
            [
                Sample([7, int(i < self.luck(r.prompt_ids))], [0.0] * 2, [0.0] * 2, "stop")
                for i in range(r.n)
            ]
            for r in requests
        ]


def labeller(engine: Any, num_rollouts: int = 4) -> StepLabeller:
    return StepLabeller(
        engine,
        judge=lambda text, e: float(text.endswith("1")),
        decode=lambda s: "".join(map(str, s.ids)),
        sampling=Sampling(max_tokens=9),
        num_rollouts=num_rollouts,
        seed=0,
    )


def solution(first_wrong: int | None, steps: int = 5) -> Solution:
    """Steps of one token, 3 where it is right and 4 from the first wrong one on."""
    ids = tuple(4 if first_wrong is not None and i >= first_wrong else 3 for i in range(steps))
    return Solution(Example("p"), (1, 2), ids, list(range(steps)), first_wrong is None)


def test_labels_are_what_continuations_say() -> None:
    """Luck falls with the length of the prefix: 3, 2, 1, 0 of 4 come out right; the last step
    is the solution itself.
    """
    engine = Digits(lambda prefix: 0 if 4 in prefix else 3)
    work = labeller(engine)
    one, good = solution(2), solution(None)
    work.every_step([one, good])
    assert one.labels() == [1, 1, 0, 0, 0] and one.labels(soft=True) == [0.75, 0.75, 0, 0, 0]
    assert good.labels() == [1] * 5 and good.labels(soft=True) == [0.75] * 4 + [1.0]
    assert (work.num_samples, work.num_tokens) == (
        8 * 4,
        8 * 4 * 2,
    )  # every sampled token, none else
    assert [r.prompt_ids for r in engine.requests[:2]] == [(1, 2, 3), (1, 2, 3, 3)]
    assert [r.sampling.max_tokens for r in engine.requests[:2]] == [
        8,
        7,
    ]  # what is left of the length


@pytest.mark.parametrize("first", [0, 1, 3, 6, 7, None])
def test_binary_search_finds_the_first_wrong_step(first: int | None) -> None:
    engine = Digits(lambda prefix: 0 if 4 in prefix else 1)
    work = labeller(engine)
    one = solution(first, steps=8)
    work.first_wrong_step([one])
    assert one.labels() == [float(first is None or i < first) for i in range(8)]
    assert len(engine.requests) <= 3  # log2 of 8
    other = solution(first, steps=8)
    labeller(engine).every_step([other])
    assert other.labels() == one.labels()


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("label_steps", "_solutions"),
        ("label_preferences", "_sample"),
        ("critique_revise", "_revised"),
    ],
)
def test_what_was_stopped_goes_on(
    run_recipe: Callable[..., Path], tmp_path: Path, method: str, what: str
) -> None:
    """Stopped in the second of three parts: the first is not made again, and the rows are the
    same bytes.
    """
    from posttrain.methods import ai_feedback, label_steps
    from posttrain.training.ending import Interrupted

    module: Any = label_steps if method == "label_steps" else ai_feedback
    raw = {
        "method": method,
        "model": EMBEDDED,
        "task": TASK,
        "batch_size": 2,
        "sampling": {"max_tokens": 40},
    }
    raw |= {"num_solutions": 2, "num_rollouts": 2} if method == "label_steps" else {}
    raw |= {"critique_max_tokens": 8} if method == "critique_revise" else {}
    whole, half = run_recipe(**raw, output=str(tmp_path / "whole")), tmp_path / "half"
    real, calls = getattr(module, what), []

    def stop(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, what, stop)
        with pytest.raises(Interrupted, match=f"posttrain resume {half}"):
            run_recipe(**raw, output=str(half))
        assert not (half / "samples.jsonl").exists()
        run_recipe(**raw, output=str(half), resume=True)
    assert len(calls) == 4 and not (half / "parts").exists()
    for file in ("samples.jsonl", *(["pairs.jsonl"] if method == "critique_revise" else [])):
        assert (whole / file).read_bytes() == (half / file).read_bytes()


def test_a_judge_labels_preferences(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    raw = {"method": "label_preferences", "task": TASK, "sampling": {"max_tokens": 8}}
    folder = run_recipe(**raw)
    rows = load_rows(folder / "samples.jsonl")
    assert detect_format(rows).name == "preference" and all(
        0.5 <= r["probability"] <= 1 for r in rows
    )
    run_recipe(
        method="reward_model",
        data=str(folder / "samples.jsonl"),
        losses=["soft_bradley_terry"],
        max_steps=1,
        output=str(tmp_path / "rm"),
    )
    other = run_recipe(**raw, judge=EMBEDDED, output=str(tmp_path / "other"))
    pairs = {r["id"]: {r["chosen"], r["rejected"]} for r in load_rows(other / "samples.jsonl")}
    assert pairs == {
        r["id"]: {r["chosen"], r["rejected"]} for r in rows
    }  # the same completions, another judge
    with pytest.raises(ConfigError, match="min_probability: 0.2"):
        run_recipe(**raw, min_probability=0.2, output=str(tmp_path / "no"))


def test_critique_and_revision(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    raw = {
        "method": "critique_revise",
        "task": TASK,
        "sampling": {"max_tokens": 8},
        "critique_max_tokens": 6,
    }
    folder = run_recipe(**raw, principles=["Be brief.", "Be kind."], num_revisions=2)
    pairs, revised = load_rows(folder / "pairs.jsonl"), load_rows(folder / "samples.jsonl")
    assert (
        detect_format(pairs).name == "preference"
        and detect_format(revised).name == "prompt-completion"
    )
    assert [p["chosen"] for p in pairs] == [r["completion"] for r in revised]
    assert {p["principle"] for p in pairs} <= {"Be brief.", "Be kind."} and all(
        p["chosen"] != p["rejected"] for p in pairs
    )
    with pytest.raises(ConfigError, match="num_revisions: 0"):
        run_recipe(**raw, num_revisions=0, output=str(tmp_path / "no"))


def test_evaluate_reward_tells_rows_and_best_of_n(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    rows = [{"prompt": f"{i}:", "chosen": "a" * (i + 1), "rejected": "b"} for i in range(6)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    trained = run_recipe(
        method="reward_model",
        data=str(data),
        max_steps=3,
        learning_rate=1e-2,
        output=str(tmp_path / "rm"),
    )
    model = {"path": str(trained / "model"), "dtype": "float32"}
    raw: dict[str, Any] = {"method": "evaluate_reward", "model": model}
    folder = run_recipe(
        **raw,
        data=str(data),
        task=TASK,
        policy={"path": str(tiny_folder), "dtype": "float32"},
        num_samples=4,
        rewards=[{"name": "length", "target": 6}],
        sampling={"max_tokens": 8},
        output=str(tmp_path / "told"),
    )
    told = json.loads((folder / "reward_evaluation.json").read_text())
    assert told["data"]["accuracy"]["n"] == 6 and 0 <= told["data"]["ece"] <= 1
    curve = told["best_of"]["curve"]
    assert (
        [p["n"] for p in curve] == [1, 2, 4]
        and curve[0]["kl"] == 0
        and told["best_of"]["problems"] == 6
    )
    assert all(p["gold"] <= p["ceiling"] + 1e-9 for p in curve)
    with pytest.raises(ModelError, match="language model"):
        run_recipe(method="evaluate_reward", data=str(data), output=str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="needs data .* or task and policy"):
        run_recipe(**raw, output=str(tmp_path / "no"))


def test_a_search_is_guided_by_a_reward(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Best of 4 by nearness to a length: the chosen one is the nearest of its candidates, not
    the task's favourite.
    """
    raw: dict[str, Any] = {
        "method": "evaluate",
        "evaluation": {"task": TASK, "num_examples": 4, "sampling": {"max_tokens": 12}},
    }
    search = {"name": "best_of_n", "num_samples": 4}
    folder = run_recipe(**raw, search=search, scorer={"name": "keyword", "words": ["a", "e", "1"]})
    told = json.loads((folder / "evaluation.json").read_text())
    for example in told["examples"]:
        chosen, *others = example["texts"]
        shares = [sum(w in text.lower() for w in "ae1") for text in (chosen, *others)]
        assert shares[0] == max(shares)
    with pytest.raises(ConfigError, match="scorer: it guides a search"):
        run_recipe(**raw, scorer="keyword", output=str(tmp_path / "no"))
