"""Continual pretraining: what is measured is what fit and a measurement by hand give, a benchmark
that was stopped goes on exactly, and mistakes are found before weights are loaded.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed import run_in_process
from support import without_weights

import posttrain as pt
from posttrain.cli import main
from posttrain.config import ModelConfig
from posttrain.data.domains import read_split
from posttrain.errors import CheckpointError, ConfigError, PosttrainError
from posttrain.evaluation.streams import Streams, read_streams
from posttrain.loops import domain_stages
from posttrain.loops.domain_suites import measured, part_of, suites_of
from posttrain.training.ending import Interrupted

WORDS = {
    "colours": ["red", "green", "blue", "white"],
    "birds": ["owl", "green", "finch", "crow"],
    "law": ["court", "judge", "ruled", "law"],
}
SETTINGS: dict[str, Any] = {
    "num_seeds": 1,
    "steps_per_domain": 2,
    "batch_size": 2,
    "learning_rate": 0.01,
    "held_out_share": 0.3,
    "held_out_characters": 600,
    "num_keywords": 3,
    "streams": [{"order": "given", "replay_share": 0.5}, {"order": "similar"}],
}


def rows(words: list[str]) -> list[dict[str, str]]:
    draw = np.random.default_rng(0)
    return [{"text": " ".join(draw.choice(words, 12).tolist())} for _ in range(24)]


def domains() -> dict[str, Any]:
    return {name: pt.Data.of(rows(words), max_length=48) for name, words in WORDS.items()}


def run(folder: Path, model: Any, **changes: Any) -> Streams:
    settings = {**SETTINGS, **changes}
    return pt.continual_pretraining(model, domains(), output=folder, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Path, Streams]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(folder, str(tiny_folder))


def test_it_leaves_a_table_and_heat_maps(whole: tuple[Path, Streams]) -> None:
    folder, result = whole
    assert read_streams(folder) == result
    assert (folder / "continual.txt").read_text() == f"{result}\n"
    names = [stream.name for stream in result.streams]
    assert names == ["given replay_share=0.5", "similar"]
    assert len(list(folder.glob("heat_map-*.svg"))) == 2
    for stream in result.streams:
        assert set(stream.values) == {"nats", "rank", "keyword_rank"}
        assert np.shape(stream.values["nats"]) == (1, 4, 3)
        assert sorted(stream.orders[0]) == sorted(WORDS)
    given, similar = result.streams
    assert given.orders[0] == list(WORDS)
    place = [similar.orders[0].index(name) for name in WORDS]
    zero_shot = [stream.values["nats"][0][0] for stream in result.streams]
    assert [zero_shot[1][i] for i in place] == zero_shot[0]
    alone = [stream.alone["nats"][0] for stream in result.streams]
    assert [alone[1][i] for i in place] == alone[0]


def test_the_first_stage_is_training_on_the_domain_alone(whole: tuple[Path, Streams]) -> None:
    for stream in whole[1].streams:
        assert stream.values["nats"][0][1][0] == stream.alone["nats"][0][0]


def test_only_the_last_model_of_a_stream_stays(whole: tuple[Path, Streams]) -> None:
    models = sorted(p.parent.name for p in whole[0].rglob("model"))
    assert [name.split("-")[1] for name in models] == ["3", "3"]


def test_parts_have_nothing_in_common(whole: tuple[Path, Streams]) -> None:
    for name in WORDS:
        parts = [
            {row["text"] for row in read_split(whole[0] / "domains" / f"{name}.{kind}.jsonl")}
            for kind in ("train", "held_out")
        ]
        assert parts[0] and parts[1] and parts[0].isdisjoint(parts[1])


def test_earlier_domains_are_replayed(whole: tuple[Path, Streams]) -> None:
    folder = whole[0] / "seed-0" / "given-replay_share=0.5"
    for number, name in enumerate(WORDS, 1):
        data = part_of(pt.Data("x"), folder / f"{number}-{name}.jsonl")
        if number == 1:
            assert not Path(data.path).exists()  # nothing is mixed in
            continue
        own = {row["text"] for row in read_split(whole[0] / "domains" / f"{name}.train.jsonl")}
        mixed = [row["text"] for row in read_split(Path(data.path))]
        size = sum(map(len, mixed))
        old = sum(len(text) for text in mixed if text not in own)
        assert 0.3 < old / size < 0.6


def test_a_stage_is_a_fit_and_a_measurement(
    whole: tuple[Path, Streams], tiny_folder: Path, tmp_path: Path
) -> None:
    """Stage 2 of the similar order, from the model that stage 1 leaves."""
    folder, result = whole
    stream = result.streams[1]
    model = pt.load(tiny_folder)
    for name in stream.orders[0][:2]:
        data = pt.Data.of(str(folder / "domains" / f"{name}.train.jsonl"), max_length=48)
        plan = pt.sft(data, batch_size=2, learning_rate=0.01, lr_scheduler_type="cosine")
        pt.fit(model, plan, steps=2, warmup_steps=0.1, min_lr_ratio=0.1)
    data = pt.Data.of(str(folder / "domains" / "law.held_out.jsonl"), max_length=48)
    change = pt.forgetting(model, model, rows={"law": data}).old[0]
    column = stream.orders[0].index("law")
    assert stream.values["nats"][0][2][column] == pytest.approx(change.after, rel=1e-5)


@pytest.mark.parametrize(("calls", "where"), [(1, "before"), (5, "before"), (7, "after")])
def test_a_stopped_benchmark_goes_on_exactly(
    calls: int,
    where: str,
    whole: tuple[Path, Streams],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is stopped at one of its nine trainings: before the training, or after, unmeasured."""
    real, number = domain_stages.fit, 0

    def fit(*arguments: Any, **settings: Any) -> Any:
        nonlocal number
        number += 1
        if number == calls and where == "before":
            raise KeyboardInterrupt
        result = real(*arguments, **settings)
        if number == calls:
            raise KeyboardInterrupt
        return result

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(domain_stages, "fit", fit)
        with pytest.raises(Interrupted):
            run(folder, str(tiny_folder))
    with pytest.raises(ConfigError):
        run(folder, str(tiny_folder))
    assert run(folder, str(tiny_folder), resume=True) == whole[1]


def test_a_finished_benchmark_is_read(
    whole: tuple[Path, Streams], tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    with monkeypatch.context() as patch:
        without_weights(patch)
        assert run(folder, str(tiny_folder), resume=True) == whole[1]


def test_other_settings_or_documents_are_refused(
    whole: tuple[Path, Streams], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    with pytest.raises(CheckpointError):
        run(folder, str(tiny_folder), resume=True, learning_rate=0.02)
    changed = {**domains(), "law": rows(["another", "text"])}
    with pytest.raises(CheckpointError):
        pt.continual_pretraining(str(tiny_folder), changed, output=folder, resume=True, **SETTINGS)


def test_a_model_in_memory_is_left_as_it_is(
    whole: tuple[Path, Streams], tiny_folder: Path, tmp_path: Path
) -> None:
    model = pt.load(tiny_folder)
    before = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
    streams = [{"order": "given", "steps_per_domain": 1}]
    result = run(tmp_path / "run", model, streams=streams, num_keywords=0)
    assert all((p == before[name]).all() for name, p in model.hf.named_parameters())
    assert set(result.streams[0].values) == {"nats", "rank"}
    given = whole[1].streams[0]
    assert result.streams[0].values["nats"][0][0] == given.values["nats"][0][0]


def test_suites_are_measured_by_name(whole: tuple[Path, Streams], tiny_folder: Path) -> None:
    model = pt.load(tiny_folder)
    splits = {
        name: domain_stages.Split(
            name,
            *(whole[0] / "domains" / f"{name}.{k}.jsonl" for k in ("train", "held_out")),
            num_train=1,
            num_held_out=1,
            characters=1,
        )
        for name in WORDS
    }
    spec = domain_stages.NamedModel(ModelConfig(str(tiny_folder)))
    some = [domain_stages.Domain(name, data) for name, data in domains().items()]
    values = measured(model, suites_of(spec, some, splits, 3))
    assert values == json.loads((whole[0] / "start" / "measured.json").read_text())


@pytest.mark.parametrize(
    "changes",
    [
        {"streams": []},
        {"streams": [{"order": "backwards"}]},
        {"streams": [{"ordre": "random"}]},
        {"streams": [{"order": "random"}, {"order": "random"}]},
        {"streams": [{"replay_share": 1.0}]},
        {"streams": [{"steps_per_domain": 0}]},
        {"num_seeds": 0},
        {"held_out_share": 1.0},
        {"replay_share": -0.1},
        {"data": {"only": [{"text": "one"}]}},
        {"data": {"a": [{"text": "one"}], "b/c": [{"text": "two"}]}},
        {"data": {"a": [{"text": "one"}], "b": "no_such_file.txt"}},
        {"resume": True, "output": None},
    ],
)
def test_mistakes_are_found_before_weights_are_loaded(
    changes: dict[str, Any], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_weights(monkeypatch)
    call = {"data": domains(), "output": tmp_path / "run", **SETTINGS, **changes}
    with pytest.raises(PosttrainError):
        pt.continual_pretraining(str(tiny_folder), **call)
    assert not (tmp_path / "run" / "start").exists()


def test_jobs_that_cannot_resume_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        pt.sample("embedded", task="sorting", output=tmp_path, resume=True)


@pytest.mark.slow
def test_a_killed_benchmark_ends_as_an_undisturbed_one(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("birds", "law"):
        text = "\n\n".join(row["text"] for row in rows(WORDS[name]))
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    changed = {"streams": [{"order": "similar", "replay_share": 0.3}], "steps_per_domain": 4}
    raw: dict[str, Any] = {
        **SETTINGS,
        **changed,
        "method": "continual_pretraining",
        "model": {"path": str(tiny_folder), "dtype": "float32"},
        "data": {"path": str(tmp_path / "texts"), "max_length": 48},
    }
    whole, count, folder = tmp_path / "whole", tmp_path / "events", tmp_path / "killed"
    options: dict[str, Any] = {"resume": False, "die_at": None, "count": count}
    assert run_in_process({**raw, "output": str(whole)}, **options) == 0
    events, draw = int(count.read_text()), random.Random(0)
    for kill in range(4):
        options["die_at"] = draw.randrange(events // 8, events // 2) if kill < 3 else None
        options["resume"] = (folder / "recipe.yaml").exists()
        code = run_in_process({**raw, "output": str(folder)}, **options)
        assert code == (-9 if kill < 3 else 0)
    for name in ("continual.json", "continual.txt"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_one_command_makes_the_table_of_a_folder(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("birds", "law"):
        text = "\n\n".join(row["text"] for row in rows(WORDS[name]))
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    arguments = ["--model", str(tiny_folder), "--data", str(tmp_path / "texts")]
    output = tmp_path / "run"
    changes = ["num_seeds=1", "steps_per_domain=1", "held_out_share=0.3", "batch_size=2"]
    changes += ["data.max_length=48", "streams=[{order: random}]", "num_keywords=0"]
    command = ["continual_pretraining", *arguments, "--output", str(output), *changes]
    assert main(command) == 0
    assert "perplexity, mean over domains" in capsys.readouterr().out
    assert "Continual pretraining" in (output / "report.html").read_text()
    first = (output / "continual.json").read_bytes()
    assert main(["resume", str(output)]) == 0
    assert (output / "continual.json").read_bytes() == first
    assert main([*command, "--check"]) == 0
