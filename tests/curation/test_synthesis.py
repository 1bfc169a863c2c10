"""Rows that a model writes, with functions that write what a model might."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from posttrain.curation.synthesis import (
    EVOLUTIONS,
    back_translate,
    evolve,
    identity_rows,
    rationales,
    self_instruct,
)
from posttrain.data.formats import detect_format
from posttrain.errors import ConfigError, DataError

SEEDS = [{"prompt": f"Name {n} animals that live in {place}"} for n, place in
         enumerate(["Africa", "the sea", "a forest", "your garden"], 2)]  # fmt: skip


def writer(prompts: list[str]) -> list[str]:
    """Continues a series with one fit task and several unfit ones; answers anything else."""
    texts = []
    for prompt in prompts:
        if not prompt.startswith("Come up"):
            texts.append(f"Answer to: {prompt}")
            continue
        numbers = [int(n) for n in re.findall(r"Task (\d+):", prompt)]
        n, tag = max(numbers), abs(hash(prompt)) % 10**9
        texts.append(
            f"Task {n}: shown before and not taken\n"
            f"Task {n + 1}: Explain topic{tag} to somebody called person{tag} before dinner\n"
            f"{n + 2}. Name 2 animals that live in Africa\n"
            f"Task {n + 3}: Draw a picture of a house\n"
            f"Task {n + 4}: Stop\nsome remark"
        )
    return texts


def test_self_instruct_takes_what_is_new_and_fit() -> None:
    done = self_instruct(writer, SEEDS, num_rows=3, seed=1)
    assert 1 <= len(done.rows) <= 3
    assert all(row["prompt"].startswith("Explain topic") for row in done.rows)
    assert all(row["completion"].startswith("Answer to: Explain") for row in done.rows)
    assert done.rejected["too similar"] >= 1 and done.rejected["not for text"] >= 1
    assert done.rejected["too short or long"] >= 1
    assert done.cost.requests >= 1 + len(done.rows) and "rows" in str(done)


def test_self_instruct_stops_where_nothing_new_comes() -> None:
    done = self_instruct(lambda p: ["Task 5: Stop"] * len(p), SEEDS, num_rows=5, max_requests=4)
    assert done.rows == [] and done.cost.requests == 4


def test_evolve_rewrites_and_leaves_out_failures() -> None:
    def write(prompts: list[str]) -> list[str]:
        out = []
        for prompt in prompts:
            if "#Instruction#" not in prompt:
                out.append("I am sorry" if "bad" in prompt else "A long answer")
                continue
            text = prompt.rpartition("\n")[2]
            out.append(text if "same" in text else f"{text}, in verse")
        return out

    rows = [{"prompt": "good one"}, {"prompt": "same one"}, {"prompt": "bad one"}]
    done = evolve(write, rows, num_rounds=2, kinds=["deepening", "breadth"])
    assert [row["prompt"] for row in done.rows] == ["good one, in verse",
                                                    "good one, in verse, in verse"]  # fmt: skip
    assert {row["evolution"] for row in done.rows} <= {"deepening", "breadth"}
    assert done.rejected == {"nothing new": 2, "apology": 2}
    assert len(EVOLUTIONS) == 5


def test_back_translation_and_rationales() -> None:
    texts = [{"text": "Whales are mammals."}, {"text": "Rust never sleeps."}]
    done = back_translate(lambda p: ["What are whales?", ""], texts)
    assert done.rows == [{"prompt": "What are whales?", "completion": "Whales are mammals."}]
    assert done.rejected == {"empty": 1}
    rows = [{"prompt": "1 + 1 =", "completion": " 2"}]
    reasons = rationales(lambda p: ["One and one are two."], rows).rows
    assert reasons == [{**rows[0], "rationale": "One and one are two."}]


def test_a_model_that_knows_its_name() -> None:
    rows = identity_rows("Ada", "the {team}", system="Be kind.")
    assert detect_format(rows).name == "messages"
    text = str(rows)
    assert "Ada" in text and "the {team}" in text and "{name}" not in text
    assert all(row["messages"][0]["role"] == "system" for row in rows)
    with pytest.raises(ConfigError):
        identity_rows("", "us")


def test_an_interrupted_call_goes_on_from_its_journal(tmp_path: Path) -> None:
    rows = [{"prompt": "one", "completion": "1"}, {"prompt": "two", "completion": "2"}]
    journal = tmp_path / "journal.jsonl"
    first = rationales(lambda p: ["because"] * len(p), rows, journal=journal)
    second = rationales(lambda p: 1 / 0, rows, journal=journal)  # type: ignore[arg-type]
    assert first.rows == second.rows and second.cost.reused == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: self_instruct(writer, SEEDS, num_rows=0),
        lambda: self_instruct(writer, SEEDS, max_similarity=0),
        lambda: evolve(writer, SEEDS, kinds=["harder"]),
        lambda: evolve(writer, SEEDS, num_rounds=0),
    ],
)
def test_settings_out_of_range_are_refused(call) -> None:
    with pytest.raises(ConfigError):
        call()


def test_rows_without_prompts_are_refused() -> None:
    with pytest.raises(DataError):
        evolve(writer, [{"text": "  "}])
