"""Items of an evaluation in training rows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from posttrain.data.rows import rows_of
from posttrain.errors import ConfigError
from posttrain.evaluation.contamination import contamination, text_of, words_of
from posttrain.types import Example, Task

DATA = Path("shared/data")
TRACES = "math_zeroshotcot_traces"


def sentence(seed: int, length: int = 20) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(length))


def test_copies_are_found_and_others_are_not() -> None:
    items = [{"question": sentence(i), "answer": str(i)} for i in range(6)]
    rows = [
        {"text": "Q: " + sentence(0)},
        {"messages": [{"role": "user", "content": sentence(2).upper().replace(" ", ",\n")}]},
        {"text": " ".join(sentence(3).split()[:16])},
        {"text": " ".join(reversed(sentence(4).split()))},
    ]
    report = contamination(items, rows, columns=["question"])
    assert [(h.item, h.row) for h in report.hits] == [(0, 0), (2, 1), (3, 2)]
    # Of 8 runs of 13 in 20 words, the first 16 words hold 4.
    assert [h.share for h in report.hits] == [1.0, 1.0, 0.5]
    assert report.clean == [1, 4, 5] and report.rate == 0.5 and report.num_rows == 4
    assert "3 of 6" in str(report)
    assert len(contamination(items, rows, columns=["question"], min_share=0.6).hits) == 2
    assert contamination(items, rows).hits[0].item == 0  # with the answers, one run more


def test_short_items_are_compared_as_a_whole() -> None:
    items = [{"q": "what is three plus four"}, {"q": "3 + 4"}]
    rows = [{"text": "They ask: what is THREE plus four?"}, {"text": "3 + 4 = 7"}]
    report = contamination(items, rows)
    assert [h.item for h in report.hits] == [0] and report.num_short == 1
    assert report.clean == [1] and report.rate == 1.0
    assert len(contamination(items, rows, min_words=1).hits) == 2


def test_runs_over_several_rows_add_up() -> None:
    words = sentence(1, 26).split()
    rows = [{"text": " ".join(words[:20])}, {"text": " ".join(words[10:])}]
    (hit,) = contamination([{"q": " ".join(words)}], rows).hits
    assert hit.share == pytest.approx((8 + 4) / 14) and hit.row == 0


def test_characters_find_what_has_no_spaces() -> None:
    text = "小明有十六个苹果他又买了十二个苹果现在他一共有多少个苹果呢"
    rows = [{"text": f"问题 {text[:10]} {text[10:]}"}, {"text": text[::-1]}]
    settings = {"unit": "characters", "n": 12}
    (hit,) = contamination([{"q": text}], rows, **settings).hits  # type: ignore[arg-type]
    assert hit.share == 1.0 and hit.row == 0


def test_a_text_without_letters_is_too_short() -> None:
    report = contamination([{"q": "-" * 80}], [{"t": "anything"}], unit="characters", n=50)
    assert (report.hits, report.num_short) == ([], 1)


def test_tasks_and_their_prompts() -> None:
    examples = [Example(sentence(i), answer="4", id=f"q-{i}") for i in range(3)]
    task = Task("t", examples, lambda t, e: 1.0, lambda t: t)
    report = contamination(task, [{"text": sentence(1)}])
    assert [h.id for h in report.hits] == ["q-1"]
    assert contamination(examples, [{"text": sentence(2)}]).hits[0].id == "q-2"


def test_wrong_settings() -> None:
    rows = [{"text": "a"}]
    for wrong in ({"n": 0}, {"min_share": 0.0}, {"min_words": 0}, {"columns": ["question"]}):
        with pytest.raises(ConfigError, match="contamination"):
            contamination(rows, rows, **wrong)  # type: ignore[arg-type]


def test_words_and_texts() -> None:
    assert words_of("ﬁrst, SECOND") == ["first", "second"]
    assert text_of({"a": ["x", {"b": "y"}], "c": 3}) == "x\ny"


def data_folder() -> Path:
    """The folder of real data."""
    folders = [parent / DATA for parent in Path(__file__).resolve().parents]
    folder = next((f for f in folders if (f / TRACES).is_dir()), None)
    if folder is None:
        pytest.skip(f"there is no folder {DATA / TRACES} above the tests")
    return folder


def test_real_evaluations_are_told_apart() -> None:
    """Of GSM8K's test questions 1,055 are among the traces; of StrategyQA's none."""
    folder = data_folder()
    traces = str(folder / TRACES)
    gsm8k, strategyqa = folder / "gsm8k" / "test.jsonl", folder / "strategyqa" / "dev.json"
    if not (gsm8k.is_file() and strategyqa.is_file()):
        pytest.skip("GSM8K or StrategyQA is missing beside the traces")
    report = contamination(str(gsm8k), traces, columns=["question"])
    assert (len(report.hits), report.num_items, report.num_rows) == (1055, 1319, 3260)
    assert contamination(str(strategyqa), traces, columns=["question"]).hits == []


@pytest.mark.parametrize(
    ("name", "num_hits", "num_items"),
    [("addsub", 335, 395), ("multiarith", 502, 600), ("singleeq", 427, 508)],
)
def test_mawps_is_caught(name: str, num_hits: int, num_items: int) -> None:
    folder = data_folder()
    items = folder / "mawps" / f"{name}.jsonl"
    if not items.is_file():
        pytest.skip("MAWPS is missing beside the traces")
    report = contamination(str(items), str(folder / TRACES), columns=["input"])
    assert (len(report.hits), report.num_items) == (num_hits, num_items)


def test_real_traces_are_caught() -> None:
    """3,260 questions with worked answers, against data that holds 1,000 of them and others."""
    folder = data_folder() / TRACES
    rows = rows_of(str(folder))
    questions = [{"question": row["instruction"]} for row in rows]
    keys = [" ".join(words_of(q["question"])) for q in questions]
    report = contamination(questions, rows[:1000])
    caught = {h.item for h in report.hits}
    comparable = [i for i in range(1000) if len(keys[i].split()) >= 5]
    assert set(comparable) <= caught and len(comparable) >= 990
    held = set(keys[:1000])
    assert {i for i in range(1000, len(rows)) if keys[i] in held} <= caught  # repeats too
    made = [{"text": sentence(i, 30)} for i in range(500)]
    assert contamination(questions, made).hits == []


def test_a_question_is_found_whatever_its_answer_is() -> None:
    question = "A baker has twelve loaves and sells five of them before noon; how many are left?"
    item = {"question": question, "answer": "reasons that no training row has, " * 10}
    row = {"instruction": question, "output": "seven"}
    assert [hit.row for hit in contamination([item], [row]).hits] == [0]
    assert not contamination([item], [row], columns=["answer"]).hits
