"""Rows and examples in memory as tasks."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.config import DataConfig
from posttrain.errors import ConfigError, DataError
from posttrain.tasks.rows import examples_of, make_task
from posttrain.types import Example


def test_rows_in_memory_are_a_task() -> None:
    task = make_task([{"prompt": "2+2?", "answer": 4, "level": 1, "id": "a"}], name="sums")
    assert task.name == "sums" and not task.unscored
    example = task.examples[0]
    assert (example.id, example.answer, example.columns) == ("a", 4, {"level": 1, "id": "a"})
    assert task.score("it is 4", example) == 1 and task.score("", example) == 0
    assert task.extract("it is 4.0") == "4"


def test_examples_in_memory_are_a_task() -> None:
    examples = [Example("a", answer="1"), Example("b", answer="2", id="mine")]
    task = make_task(examples, score=lambda text, example: float(text == example.answer))
    assert [e.id for e in task.examples] == ["0", "mine"]
    assert task.score("2", task.examples[1]) == 1.0
    assert [e.prompt for e in make_task(e for e in examples).examples] == ["a", "b"]


def test_configurations_and_data_sets_are_tasks_too() -> None:
    rows = [{"q": "a", "answer": "1"}, {"q": "b", "answer": "2"}]
    config = DataConfig.of(rows, limit=1, columns={"prompt": "q"})
    assert [e.prompt for e in make_task(config).examples] == ["a"]
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(rows)
    for source in (table, table.to_iterable_dataset()):
        assert [e.prompt for e in make_task(source, prompt_column="q").examples] == ["a", "b"]


def test_messages_are_prompts() -> None:
    rows = [{"prompt": [{"from": "human", "value": "Hi"}], "answer": "1"}]
    assert examples_of(rows)[0].prompt == [{"role": "user", "content": "Hi"}]


def test_worked_completions_must_give_their_own_answer() -> None:
    row = {"prompt": "p", "answer": "3", "completion": "so 3"}
    assert make_task([row], completion_column="completion").examples[0].completion == "so 3"
    with pytest.raises(DataError, match="row 0 .*'3'"):
        make_task([{**row, "completion": "so 5"}], completion_column="completion")


@pytest.mark.parametrize("broken", [{"answer": "1"}, {"prompt": None}, {"prompt": 5}])
def test_rows_without_a_prompt_are_named_all_at_once(broken: dict[str, Any]) -> None:
    rows = [{"prompt": "a"}, *[broken] * 7]
    with pytest.raises(DataError, match=r"mine: 7 of 8 rows .*row 1\b.*row 5\b") as caught:
        make_task(rows, name="mine")
    assert "row 6" not in str(caught.value)


def test_an_unknown_verifier_names_the_nearest() -> None:
    rows = [{"prompt": "a", "answer": "1"}]
    wrong: list[dict[str, Any]] = [{"verifier": "equals"}, {"extractor": "last"}]
    for settings in wrong:
        with pytest.raises(ConfigError, match=next(iter(settings))):
            make_task(rows, **settings)
    assert make_task(rows, verifier="equal").score("it is 1", Example("a", answer="1")) == 1.0
