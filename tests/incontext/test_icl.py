"""`pt.icl`: accuracy that rises with demonstrations, and what is refused before weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import without_weights

import posttrain as pt
from posttrain.errors import ConfigError, DataError
from posttrain.incontext.label_scores import label_logprobs, log_softmax
from posttrain.incontext.rows import Labelled
from posttrain.incontext.templates import PromptEncoder

WORDS = {"name": "labelled_words", "num_examples": 120, "seed": 11}
SMALL: dict[str, Any] = {"num_examples": 12, "num_shots": 4}


@pytest.fixture(scope="module")
def model() -> Any:
    return pt.load("embedded-icl", device="cpu")


def test_accuracy_rises_with_demonstrations(model: Any) -> None:
    """Over five mappings, each of which has labels that the model has not seen together."""
    means = {}
    for shots in (0, 4, 16):
        right: list[bool] = []
        for seed in range(5):
            rows = {"name": "labelled_words", "num_examples": 80, "seed": seed + 50}
            right += pt.icl(model, rows, num_shots=shots, num_examples=20, seed=seed).correct
        means[shots] = np.mean(right)
    assert means[0] < 0.4 and means[4] > means[0] + 0.1 and means[16] > means[4] - 0.05
    assert means[16] > means[0] + 0.25


def test_probabilities_are_those_of_the_scores(model: Any) -> None:
    result = pt.icl(model, WORDS, **SMALL)
    encoder = PromptEncoder(model.tokenizer, pt.Template(), result.labels)
    by_id = {
        f"{n - 12}:{e.id}": e for n, e in enumerate(pt.task.labelled_words(**_settings()).examples)
    }
    row = result.rows[0]
    shots = [Labelled(str(by_id[i].prompt), by_id[i].answer) for i in row.shots]
    ids = encoder.prompt_ids(shots, row.text)
    logs = log_softmax(label_logprobs(model, [ids], encoder.label_ids))[0]
    np.testing.assert_allclose(np.exp(logs), row.probabilities, atol=1e-5)
    assert row.prediction == result.labels[int(logs.argmax())]


def _settings() -> dict[str, Any]:
    return {k: v for k, v in WORDS.items() if k != "name"}


@pytest.mark.parametrize(
    "options",
    [
        {"selection": "nearest", "order": "similarity"},
        {"selection": {"name": "nearest", "features": "hidden"}, "calibration": "batch"},
        {"selection": "k_center", "order": {"name": "global_entropy", "num_orders": 3}},
        {"selection": "dpp", "order": {"name": "local_entropy", "num_probes": 3, "num_orders": 3}},
        {"selection": {"name": "dpp", "relevance": 1.0}, "order": {"name": "mdl", "num_orders": 2}},
        {
            "order": {
                "name": "global_entropy",
                "num_orders": 2,
                "num_probes": 4,
                "generated": True,
            },
            "template": {"chat": False},
        },
        {"calibration": "contextual", "order": "shuffled"},
        {"calibration": {"name": "domain", "num_texts": 3}, "normalization": "byte"},
        {"remove_prior": True, "normalization": "token", "template": {"chat": False}},
        {"selection": lambda pool, num_shots: range(num_shots)},
        {"num_shots": 0},
    ],
)
def test_all_parts_work_together(options: dict[str, Any], model: Any) -> None:
    result = pt.icl(model, WORDS, **{**SMALL, **options})
    assert len(result.rows) == 12 and len(result.labels) == 4
    for row in result.rows:
        assert sum(row.probabilities) == pytest.approx(1)
        assert len(row.shots) == options.get("num_shots", 4) == len(set(row.shots))
    again = pt.icl(model, WORDS, **{**SMALL, **options})
    assert again.rows == result.rows  # the seed says it all


def test_bm25_with_a_file(model: Any, tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    rows = tmp_path / "rows.tsv"
    rows.write_text("text\tlabel\n" + "".join(f"w{n} x{n % 5}\tl{n % 2}\n" for n in range(40)))
    result = pt.icl(model, str(rows), selection="bm25", output=tmp_path / "out", **SMALL)
    whole = json.loads((tmp_path / "out" / "in_context.json").read_text())
    assert whole["settings"]["selection"] == "bm25" and whole["labels"] == ["l0", "l1"]
    assert result.num_pool == 28 and result.num_removed == 0


def test_rows_with_a_question_s_text_are_not_shown(model: Any) -> None:
    rows = [Labelled(f"t{n}", f"l{n % 2}", str(n)) for n in range(6)]
    result = pt.icl(model, rows[:3], demonstrations=rows, num_shots=3)
    assert result.num_removed == 3 and result.num_pool == 3
    assert all(set(row.shots) == {"0:3", "1:4", "2:5"} for row in result.rows)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_shots": -1}, ConfigError),
        ({"num_shots": 500}, DataError),
        ({"num_examples": 0}, ConfigError),
        ({"selection": "nearer"}, ConfigError),
        ({"selection": {"name": "nearest", "features": "wordz"}}, ConfigError),
        ({"order": {"name": "mdl", "num_order": 2}}, ConfigError),
        ({"calibration": "bath"}, ConfigError),
        ({"labels": ["a"]}, ConfigError),
        ({"labels": ["a", "b"]}, DataError),
        ({"template": {"inputs": "x"}}, ConfigError),
        ({"num_shots": 80, "template": {"turn": "{text} " + "long " * 40}}, ConfigError),
        ({"selection": lambda pool: [0] * 9}, DataError),
    ],
)
def test_what_cannot_be_asked_is_refused_before_weights(
    options: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_weights(monkeypatch)
    with pytest.raises(error):
        pt.icl("embedded-icl", WORDS, **{"num_examples": 12, **options})


def test_a_server_has_no_probabilities() -> None:
    server = pt.Endpoint(url="http://localhost:1/v1", model="m")
    for options in (
        {"calibration": "batch"},
        {"order": "mdl"},
        {"normalization": "byte"},
        {"remove_prior": True},
    ):
        with pytest.raises(ConfigError):
            pt.icl(server, WORDS, **SMALL, **options)


def test_trec_with_real_and_embedded_models(shared: Path, stories: Path, model: Any) -> None:
    """Both answer real questions with probabilities; what they reach is in the benchmark."""
    folder = shared / "data" / "trec_mr"
    if not (folder / "TREC.train.all").is_file():
        pytest.skip(f"no {folder}/TREC.train.all")
    rows = {}
    for part in ("test", "train"):
        lines = (folder / f"TREC.{part}.all").read_text(encoding="latin-1").splitlines()
        rows[part] = [
            {"text": text, "label": label} for label, _, text in (x.partition(" ") for x in lines)
        ]
    pool = [row for row in rows["train"] if len(row["text"].split()) <= 8][:60]
    words = dict(zip("012345", ("description", "thing", "short", "person", "place", "number")))
    for each in (str(stories), model):
        result = pt.icl(
            each,
            rows["test"][:12],
            demonstrations=pool,
            labels=sorted(words),
            num_shots=4,
            selection="nearest",
            template={"words": words},
        )
        assert len(result.rows) == 12 and 0 <= result.accuracy().estimate <= 1
