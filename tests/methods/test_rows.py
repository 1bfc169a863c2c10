"""What data lose is counted, shown everywhere and bounded; plain text loses nothing, whatever
its size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import checked, interrupted, lines, told, weights, write

from posttrain.data import store
from posttrain.data.forest import Batch, Tree
from posttrain.errors import ConfigError, DataError

LONG = " " + "b" * 60
SHORT: dict[str, dict[str, Any]] = {
    "sft": {"prompt": "Q", "completion": " a"},
    "distill": {"prompt": "Q", "completion": " a"},
    "dpo": {"prompt": "Q", "chosen": " a", "rejected": " b"},
    "kto": {"prompt": "Q", "completion": " a", "label": True},
    "listwise": {"prompt": "Q", "completions": [" a", " b"], "scores": [1, 0]},
    "reward_model": {"prompt": "Q", "chosen": " a", "rejected": " b"},
    "offline": {"prompt": "Q", "completion": " a", "reward": 1.0},
}
_LONGER = {"completion": LONG, "chosen": LONG, "completions": [LONG, " b"]}


def rows_of(method: str, num_long: int, num: int = 20) -> list[dict[str, Any]]:
    short = SHORT[method]
    rows = [{**short, "prompt": f"Q{i}"} for i in range(num)]
    if method in ("kto",):
        rows = [{**row, "label": i % 2 == 0} for i, row in enumerate(rows)]
    long = {k: _LONGER[k] for k in short if k in _LONGER}
    return [{**row, **long} if i < num_long else row for i, row in enumerate(rows)]


def settings(method: str, tiny_folder: Path) -> dict[str, Any]:
    more: dict[str, Any] = {"teacher": str(tiny_folder)} if method == "distill" else {}
    if method == "offline":
        more = {"losses": ["nll"]}
    return {"method": method, "batch_size": 8, "max_steps": 1, **more}


@pytest.mark.parametrize("method", SHORT)
def test_losses_above_the_share_are_an_error_in_every_method(
    method: str, run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    data = {"path": write(tmp_path / "rows.jsonl", rows_of(method, 3)), "max_length": 24}
    with pytest.raises(DataError, match=r"3 of 20 .*data\.max_cut=0\.1 .*data\.max_length"):
        run_recipe(**settings(method, tiny_folder), data=data)
    assert not (tmp_path / "run").exists()
    text = checked(
        tmp_path, tiny_folder, **settings(method, tiny_folder), data={**data, "max_cut": 0.7}
    )
    assert "data lost" in text and "3 of 20 rows cut, losing" in text


def test_losses_are_on_the_terminal_in_the_metrics_and_in_the_report(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    from posttrain.report.html import write_report

    data = {
        "path": write(tmp_path / "rows.jsonl", rows_of("sft", 2)),
        "max_length": 24,
        "max_cut": 0.4,
    }
    folder = run_recipe(
        **settings("sft", tiny_folder),
        data=data,
        eval_data={**data, "truncation": "drop", "max_cut": 0.6},
    )
    with pytest.raises(
        DataError,
        match=r"^eval_data: .*eval_data\.max_length=24 .*eval_data\.max_cut=0\.53",
    ):
        checked(
            tmp_path,
            tiny_folder,
            **settings("sft", tiny_folder),
            data=data,
            eval_data={**data, "truncation": "drop"},
        )
    first = lines(folder / "metrics.jsonl")[0]
    lost = 2 * (len("Q0" + LONG) + 2 - 24)  # BOS and EOS count
    assert first["step"] == 0 and first["data/rows"] == 20 and first["data/rows_cut"] == 2
    assert (
        first["data/tokens_cut"] == lost
        and first["data/rows_dropped"] == first["data/rows_masked"] == 0
    )
    assert (
        first["eval_data/rows_dropped"] == 2 and first["eval_data/tokens_dropped"] == lost + 2 * 24
    )
    text = (tmp_path / "console.txt").read_text()
    assert f"data lost: 2 of 20 rows cut, losing {lost} of" in text
    assert "eval_data lost: 2 of 20 rows dropped as too long" in text
    page = write_report(folder).read_text()
    assert "rows cut at max_length (data)" in page and f"2 of 20 rows, with {lost} of" in page
    assert "rows dropped as too long (eval_data)" in page and "Nothing: no row" not in page


def test_nothing_is_said_where_nothing_is_lost(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    folder = run_recipe(
        **settings("sft", tiny_folder), data=write(tmp_path / "rows.jsonl", rows_of("sft", 0))
    )
    assert (
        lines(folder / "metrics.jsonl")[0]["step"] == 1
        and "lost" not in (tmp_path / "console.txt").read_text()
    )


TEXT = "\n\n".join(f"Paragraph {i}: " + "some words, " * (i % 9) + "end." for i in range(60))


def sft_text(path: Path, **more: Any) -> dict[str, Any]:
    data = {"path": str(path), "max_length": 32, **more}
    return {
        "method": "sft",
        "data": data,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "num_train_epochs": 2,
    }


def test_plain_text_trains_every_token_once_per_epoch(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    num_documents, num_tokens = (
        60,
        len(TEXT.replace("\n\n", "")) + 2 * 60,
    )  # a byte is a token; BOS and EOS
    text = checked(tmp_path, tiny_folder, **sft_text(path))
    assert (
        f"{num_tokens:,} of {num_tokens:,}; {num_tokens - num_documents:,} are targets, each once "
        "per epoch" in text
    )
    from posttrain.training import objective

    counted: list[int] = []
    real = objective.Objective.denominators

    def denominators(self: Any, batch: Batch) -> Any:
        counted.append(batch.num_targets)
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective.Objective, "denominators", denominators)
        run_recipe(**sft_text(path))
    half = len(counted) // 2
    assert sum(counted[:half]) == sum(counted[half:]) == num_tokens - num_documents
    kept = checked(tmp_path, tiny_folder, **sft_text(path, truncation="keep_start", max_cut=1.0))
    assert "data lost" in kept and f"of {num_tokens:,}; " in kept
    with pytest.raises(DataError, match="more than data.max_cut=0.1 allows"):
        checked(tmp_path, tiny_folder, **sft_text(path, truncation="keep_start"))


def test_documents_are_what_the_setting_says(tmp_path: Path, tiny_folder: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("a\nb\n\nc\n")
    for document, count in (("paragraph", 2), ("line", 3), ("file", 1)):
        assert f"documents  {count}, in {count} sequences" in checked(
            tmp_path, tiny_folder, **sft_text(path, document=document)
        )
    rows = write(tmp_path / "rows.jsonl", rows_of("sft", 0))
    with pytest.raises(ConfigError, match="data.document: 'line'"):
        checked(tmp_path, tiny_folder, method="sft", data={"path": rows, "document": "line"})


def test_text_files_and_text_rows_train_alike(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    rows = write(tmp_path / "rows.jsonl", [{"text": t} for t in TEXT.split("\n\n")])
    one = run_recipe(**sft_text(path), output=str(tmp_path / "one"))
    two = run_recipe(**sft_text(Path(rows)), output=str(tmp_path / "two"))
    assert weights(one) == weights(two) and told(one) == told(two)


@pytest.mark.parametrize("kind", ["text", "weighted rows"])
def test_data_on_disk_train_as_in_memory_and_resume(
    kind: str, run_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    if kind == "text":
        (tmp_path / "corpus.txt").write_text(TEXT)
        raw = sft_text(tmp_path / "corpus.txt")
    else:
        rows = rows_of("sft", 0, 40)
        rows[30]["weight"] = 0.5  # the first with a weight lies on disk already
        raw = sft_text(Path(write(tmp_path / "rows.jsonl", rows)))
    memory = run_recipe(**raw, output=str(tmp_path / "memory"))
    monkeypatch.setattr(store, "MEMORY_TOKENS", 200)
    disk = run_recipe(**raw, output=str(tmp_path / "disk"))
    assert (tmp_path / "cache" / "tokens").is_dir() and not list(
        (tmp_path / "cache" / "tokens").iterdir()
    )
    interrupted(run_recipe, 3, **raw, output=str(tmp_path / "half"))  # in the middle of an epoch
    half = run_recipe(**raw, output=str(tmp_path / "half"), resume=True)
    assert weights(memory) == weights(disk) == weights(half)
    assert told(memory) == told(disk) == told(half)


def test_a_document_has_the_same_losses_alone_and_beside_others(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """No token attends across the border of a document or of a part."""
    from posttrain.data.encode import encode_rows
    from posttrain.models.load import load_model

    model = load_model(str(tiny_folder), dtype="float32")
    sequences = encode_rows(
        [{"text": t} for t in TEXT.split("\n\n")[:12]], model.tokenizer, max_length=32
    ).sequences
    assert len(sequences) > 20

    def logprobs(chosen: list[Any]) -> np.ndarray:
        (forest,) = Batch([Tree.build([s]) for s in chosen]).split(None)
        return model.forward(forest, frozenset({"logprobs"}))["logprobs"].detach().numpy()

    packed = logprobs(list(sequences))
    alone = np.concatenate([logprobs([s]) for s in sequences])
    assert packed.shape == alone.shape and np.abs(packed - alone).max() < 2e-6
    # The comparison can fail: the same tokens behind another document's have other losses.
    first, second = sequences[0], sequences[1]
    from posttrain.data.forest import TokenSequence

    ids = np.concatenate([first.ids, second.ids])
    joined = TokenSequence(ids, np.arange(len(ids)) > len(first.ids))
    assert np.abs(logprobs([joined]) - logprobs([second])).max() > 1e-3


def test_worked_examples_beyond_the_context_are_dropped_up_to_a_share(
    tiny_folder: Path, tmp_path: Path, run_recipe: Callable[..., Path]
) -> None:
    rows = [
        {"prompt": f"p{i}", "answer": "1", "completion": "word " * (200 if i < 2 else 2) + "1"}
        for i in range(10)
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    recipe = {
        "method": "sft",
        "model": {"path": str(tiny_folder), "dtype": "float32"},
        "batch_size": 4,
        "max_steps": 1,
        "task": {"name": "jsonl", "path": path, "completion_column": "completion"},
    }
    with pytest.raises(DataError, match=r"2 of 10 .*max_prompts_dropped=0.2"):
        run_recipe(**recipe, output=str(tmp_path / "a"))
    folder = run_recipe(**recipe, output=str(tmp_path / "b"), max_prompts_dropped=0.2)
    assert lines(folder / "metrics.jsonl")[0]["data/rows_dropped"] == 2
