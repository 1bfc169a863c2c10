"""A finished run is trained on from its end; a resume that would not be exact is refused, and
changes nothing on disk.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import interrupted, lines, tiny_model, told, write

from posttrain.errors import CheckpointError

SFT: dict[str, Any] = {
    "method": "sft",
    "task": {"name": "arithmetic", "num_examples": 20, "num_steps": 1},
    "batch_size": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
}
GRPO: dict[str, Any] = {
    "method": "grpo",
    "task": {"name": "arithmetic", "num_examples": 12, "num_steps": 1},
    "rewards": [{"name": "length", "target": 6}],
    "losses": [{"name": "clipped"}, {"name": "kl", "weight": 0.05}],
    "batch_size": 2,
    "num_generations": 4,
    "sampling": {"max_tokens": 12},
    "learning_rate": 1e-3,
}
EVALUATION = {"task": {"name": "arithmetic"}, "num_examples": 2, "sampling": {"max_tokens": 4}}
Runner = Callable[..., Path]


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def refused(run_recipe: Runner, match: str, **raw: Any) -> None:
    """The resume is refused, and the folder stays byte for byte as it was."""
    folder = Path(raw["output"])
    before = files(folder)
    with pytest.raises(CheckpointError, match=match):
        run_recipe(**raw, resume=True)
    assert files(folder) == before


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("raw", [SFT, GRPO], ids=["sft", "grpo"])
def test_an_extension_is_exact(
    raw: dict[str, Any], lora: bool, run_recipe: Runner, tmp_path: Path, tiny_folder: Path
) -> None:
    model = tiny_model(tiny_folder, {"r": 4, "dropout": 0.1} if lora else None)
    whole = run_recipe(**raw, model=model, max_steps=7, output=str(tmp_path / "whole"))
    run = {**raw, "model": model, "output": str(tmp_path / "extended")}
    extended = run_recipe(**run, max_steps=4)
    first = files(extended / "model")
    run_recipe(**run, max_steps=7, resume=True)
    assert files(extended / "model") == files(whole / "model")
    assert told(extended) == told(whole)
    # What the run of four steps left is kept.
    assert files(extended / "model-4") == first
    assert sorted(p.name for p in extended.glob("checkpoint*")) == ["checkpoint-7"]


def test_an_interrupted_extension_is_not_finished(
    run_recipe: Runner, tmp_path: Path, tiny_folder: Path
) -> None:
    run = {**SFT, "output": str(tmp_path / "run"), "evaluation": EVALUATION}
    folder = run_recipe(**run, max_steps=3)
    old = (folder / "evaluation.json").read_bytes()
    interrupted(lambda **raw: run_recipe(**raw, resume=True), 5, **run, max_steps=8)
    assert not (folder / "model").exists() and not (folder / "evaluation.json").exists()
    assert (folder / "evaluation-3.json").read_bytes() == old
    run_recipe(**run, max_steps=8, resume=True)
    whole = run_recipe(**{**run, "output": str(tmp_path / "whole")}, max_steps=8)
    assert (
        files(folder / "model") == files(whole / "model") and (folder / "evaluation.json").is_file()
    )


def test_a_length_that_decides_rates_is_refused_and_can_be_accepted(
    run_recipe: Runner, tmp_path: Path
) -> None:
    run = {**SFT, "output": str(tmp_path / "run"), "lr_scheduler_type": "linear"}
    run_recipe(**run, max_steps=3)
    refused(
        run_recipe,
        r"steps: 3 -> 6 .*lr_scheduler_type is linear(.|\n)*--accept max_steps",
        **run,
        max_steps=6,
    )
    share = {
        **run,
        "output": str(tmp_path / "share"),
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 0.5,
    }
    run_recipe(**share, max_steps=4)
    refused(run_recipe, "warmup_steps is a share of them", **share, max_steps=6)
    refused(run_recipe, r"max_steps: 2 is below the 3 steps", **run, max_steps=2)
    folder = run_recipe(**run, max_steps=6, resume=True, accept=["max_steps"])
    assert [row["step"] for row in lines(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert lines(folder / "metrics.jsonl")[3]["learning_rate"] == pytest.approx(1e-3 * 3 / 6)


def test_adalora_and_self_play_are_extended_only_if_asked(
    run_recipe: Runner, tmp_path: Path, tiny_folder: Path
) -> None:
    model = {"path": str(tiny_folder), "dtype": "float32", "adapter": {"kind": "adalora", "r": 2}}
    run = {**SFT, "model": model, "output": str(tmp_path / "adalora")}
    run_recipe(**run, max_steps=2)
    refused(run_recipe, "adalora prunes by the number of steps", **run, max_steps=4)
    task = {"name": "arithmetic", "num_examples": 4, "num_steps": 1}
    spin = {
        "method": "spin",
        "task": task,
        "batch_size": 2,
        "sampling": {"max_tokens": 6},
        "num_rounds": 2,
    }
    spin |= {"lr_scheduler_type": "constant", "output": str(tmp_path / "spin")}
    run_recipe(**spin, max_steps=2)
    refused(run_recipe, "rounds are equal shares of the steps", **spin, max_steps=6)


def test_settings_of_the_update_are_honoured_or_refused(
    run_recipe: Runner, tmp_path: Path, tiny_folder: Path
) -> None:
    run = {**SFT, "output": str(tmp_path / "run"), "save_every": 2}
    interrupted(run_recipe, 2, **run, max_steps=4)
    for key, value in (
        ("weight_decay", 0.5),
        ("adam_beta1", 0.5),
        ("adam_epsilon", 1e-3),
        ("learning_rate", 1e-2),
    ):
        refused(
            run_recipe,
            rf"{key}: .* -> {value}(.|\n)*--accept {key}",
            **{**run, key: value},
            max_steps=4,
        )
    lora = {"path": str(tiny_folder), "dtype": "float32", "lora": {"r": 2}}
    refused(
        run_recipe,
        r"model\.lora\.r: \(not set\) -> 2(.|\n)*needs a new run",
        **run,
        max_steps=4,
        model=lora,
    )
    refused(run_recipe, "seed: 0 -> 1", **run, max_steps=4, seed=1)
    results = [run_recipe(**{**run, "output": str(_copy(run, "plain"))}, max_steps=4, resume=True)]
    for key, value in (
        ("weight_decay", 0.5),
        ("adam_beta1", 0.5),
        ("adam_beta2", 0.5),
        ("adam_epsilon", 1e-3),
    ):
        other = {**run, "output": str(_copy(run, key)), key: value}
        results.append(run_recipe(**other, max_steps=4, resume=True, accept=[key]))
    models = [(folder / "model" / "model.safetensors").read_bytes() for folder in results]
    assert len(set(models)) == len(models)  # each setting has changed the weights
    assert yaml.safe_load((results[1] / "recipe.yaml").read_text())["weight_decay"] == 0.5


def _copy(run: dict[str, Any], name: str) -> Path:
    folder = Path(run["output"])
    shutil.copytree(folder, folder.with_name(name))
    return folder.with_name(name)


def test_what_does_not_touch_the_weights_may_change(run_recipe: Runner, tmp_path: Path) -> None:
    run = {**SFT, "output": str(tmp_path / "run")}
    interrupted(run_recipe, 2, **run, max_steps=4)
    folder = run_recipe(
        **run,
        max_steps=4,
        resume=True,
        title="new",
        save_every=3,
        save_total_limit=5,
        report_to=["none"],
    )
    whole = run_recipe(**{**run, "output": str(tmp_path / "whole")}, max_steps=4)
    assert files(folder / "model") == files(whole / "model")
    assert "title: (not set) -> new" in (tmp_path / "console.txt").read_text()


ROWS = [{"prompt": f"{i}+1=", "completion": f" {i + 1}"} for i in range(8)]


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (ROWS[::-1], "the 8 rows stand in another order"),
        (ROWS[:6], "8 rows -> 6 rows"),
        (ROWS * 2, "8 rows -> 16 rows"),
        ([*ROWS[:-1], {"prompt": "7+1=", "completion": " 9"}], "the content of the 8 rows differs"),
    ],
    ids=["reordered", "shortened", "doubled", "edited"],
)
def test_changed_rows_are_refused(
    rows: list[Any], what: str, run_recipe: Runner, tmp_path: Path
) -> None:
    data = write(tmp_path / "rows.jsonl", ROWS)
    run = {
        "method": "sft",
        "data": data,
        "batch_size": 2,
        "max_steps": 4,
        "output": str(tmp_path / "run"),
    }
    interrupted(run_recipe, 2, **run)
    write(tmp_path / "rows.jsonl", rows)
    refused(run_recipe, rf"data: {what}(.|\n)*--accept data", **run)
    run_recipe(**run, resume=True, accept=["data"])


def test_the_same_rows_elsewhere_are_the_same(run_recipe: Runner, tmp_path: Path) -> None:
    run = {"method": "sft", "batch_size": 2, "max_steps": 4, "output": str(tmp_path / "run")}
    interrupted(run_recipe, 2, **run, data=write(tmp_path / "rows.jsonl", ROWS))
    (tmp_path / "rows.jsonl").rename(tmp_path / "moved.jsonl")
    assert (run_recipe(**run, data=str(tmp_path / "moved.jsonl"), resume=True) / "model").is_dir()


def test_changed_prompts_weights_tokenizer_and_plugins_are_refused(
    run_recipe: Runner, tmp_path: Path, tiny_folder: Path
) -> None:
    place = tmp_path / "base"
    shutil.copytree(tiny_folder, place)
    plugin = tmp_path / "own.py"
    code = (
        "from posttrain.registry import rewards\n\n@rewards.register\ndef own(completions):\n    "
        '"""Own."""\n    return [{} for _ in completions]\n'
    )
    plugin.write_text(code.format("1.0"))
    model = {"path": str(place), "dtype": "float32"}
    run = {
        **GRPO,
        "rewards": ["own"],
        "plugins": [str(plugin)],
        "model": model,
        "output": str(tmp_path / "run"),
        "max_steps": 3,
    }
    interrupted(run_recipe, 1, **run)

    plugin.write_text(code.format("2.0"))
    refused(run_recipe, r"plugins: own.py has changed(.|\n)*--accept plugins", **run)
    plugin.write_text(code.format("1.0"))

    task = {**GRPO["task"], "num_examples": 10}
    refused(run_recipe, "task.num_examples: 12 -> 10", **{**run, "task": task})

    weights = place / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-4] + b"\x00\x00\x00\x01")
    refused(run_recipe, r"weights: those of model are others(.|\n)*--accept weights", **run)
    weights.write_bytes(good)

    tokenizer = place / "tokenizer.json"
    text = tokenizer.read_text()
    values = json.loads(text)
    vocabulary = values["model"]["vocab"]
    one, two = list(vocabulary)[20:22]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    tokenizer.write_text(json.dumps(values))
    refused(run_recipe, "tokenizer: it gives other ids", **run)
    tokenizer.write_text(text)
    run_recipe(**run, resume=True)


def test_a_changed_template_leaves_the_folder_as_it_is(
    run_recipe: Runner, tmp_path: Path, tiny_folder: Path
) -> None:
    run = {**SFT, "output": str(tmp_path / "run"), "max_steps": 3}
    interrupted(run_recipe, 2, **run)
    model = {
        "path": str(tiny_folder),
        "dtype": "float32",
        "chat_template": "{{ messages[0]['content'] }}",
    }
    refused(run_recipe, "was trained with the chat template", **run, model=model)
    run_recipe(**run, resume=True)


def test_stopped_in_the_evaluation_only_evaluates(
    run_recipe: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.methods import measurement
    from posttrain.training import session

    run = {**SFT, "output": str(tmp_path / "run"), "max_steps": 3, "evaluation": EVALUATION}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            measurement.Measuring, "of", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt())
        )
        with pytest.raises(KeyboardInterrupt):
            run_recipe(**run)
    folder = Path(run["output"])
    before = files(folder)
    assert "evaluation.json" not in before and "model/model.safetensors" in before
    monkeypatch.setattr(session, "train", lambda *a, **k: pytest.fail("trained again"))
    run_recipe(**run, resume=True)
    after = files(folder)
    whole = run_recipe  # the undisturbed run's evaluation is compared below
    assert after.pop("evaluation.json") and after.pop("recipe.yaml") and before.pop("recipe.yaml")
    assert after == before
    # Measured in another way: the first evaluation is kept.
    whole(**{**run, "evaluation": {**EVALUATION, "num_examples": 3}}, resume=True)
    assert json.loads((folder / "evaluation-3.json").read_text())["num_examples"] == 2
    assert json.loads((folder / "evaluation.json").read_text())["num_examples"] == 3
    whole(**{**run, "evaluation": {**EVALUATION, "num_examples": 3}}, resume=True)
    assert "is finished" in (tmp_path / "console.txt").read_text()


def test_a_finished_run_without_its_checkpoint_says_so(run_recipe: Runner, tmp_path: Path) -> None:
    run = {**SFT, "output": str(tmp_path / "run")}
    folder = run_recipe(**run, max_steps=2)
    shutil.rmtree(folder / "checkpoint-2")
    refused(
        run_recipe,
        r"no checkpoint is left(.|\n)*start a new run from its model: model.path=.*model",
        **run,
        max_steps=4,
    )


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "flipped":
        content[len(content) // 2] ^= 1
    elif kind == "truncated":
        content = content[: len(content) // 2]
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["flipped", "truncated"])
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", "tokenizer.json"],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    name: str, kind: str, run_recipe: Runner, tmp_path: Path
) -> None:
    run = {**SFT, "output": str(tmp_path / "run"), "save_every": 1, "max_steps": 4}
    folder = Path(run["output"])
    interrupted(run_recipe, 3, **run)
    damage(folder / "checkpoint-3" / name, kind)
    run_recipe(**run, resume=True)
    told_to = (tmp_path / "console.txt").read_text()
    assert "checkpoint-3 is set aside as checkpoint-3.damaged: " in told_to and name in told_to
    assert "from checkpoint-2: steps 3 to 4" in told_to
    assert (folder / "checkpoint-3.damaged").is_dir()
    whole = run_recipe(**{**run, "output": str(tmp_path / "whole")})
    assert files(folder / "model") == files(whole / "model")


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "null", "7", '{"files": 3}', '{"global_step": "x", "files": {}}', "[" * 5000, ""],
)
def test_a_state_of_a_wrong_shape_is_an_error_and_no_traceback(
    text: str, run_recipe: Runner, tmp_path: Path
) -> None:
    run = {**SFT, "output": str(tmp_path / "run"), "max_steps": 4}
    interrupted(run_recipe, 2, **run)
    (tmp_path / "run" / "checkpoint-2" / "trainer_state.json").write_text(text)
    refused(run_recipe, r"no checkpoint of .* can be read:(.|\n)*another output", **run)


def test_a_full_disk_while_the_optimiser_is_written(
    run_recipe: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource
    import signal

    from posttrain.training import checkpoint

    real = checkpoint.torch.save

    def full(value: Any, path: Path) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            real(value, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(
        CheckpointError, match=r"could not write .*checkpoint-2.*MiB are free.*posttrain resume"
    ):
        run_recipe(**SFT, output=str(tmp_path / "run"), save_every=2, max_steps=4)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["metrics.jsonl", "recipe.yaml"]


def test_a_final_state_is_kept_without_save_every(run_recipe: Runner, tmp_path: Path) -> None:
    folder = run_recipe(**SFT, output=str(tmp_path / "run"), max_steps=3)
    assert [p.name for p in folder.glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_final_state_can_be_left_out(run_recipe: Runner, tmp_path: Path) -> None:
    run = {
        **SFT,
        "output": str(tmp_path / "run"),
        "save_seconds": 1e-9,
        "save_final": False,
        "evaluation": EVALUATION,
    }
    folder = run_recipe(**run, max_steps=3)
    assert (folder / "model").is_dir() and not list(folder.glob("checkpoint*"))
    refused(
        run_recipe,
        r"no checkpoint is left(.|\n)*start a new run from its model: model.path=.*model",
        **run,
        max_steps=4,
    )
    (folder / "evaluation.json").unlink()
    run_recipe(**run, max_steps=3, resume=True)
    assert (folder / "evaluation.json").is_file() and not list(folder.glob("checkpoint*"))


def test_time_decides_when_to_save(run_recipe: Runner, tmp_path: Path) -> None:
    run = {**SFT, "max_steps": 4, "save_seconds": 1e-9, "save_total_limit": 9}
    with pytest.MonkeyPatch.context() as patch:
        from posttrain.training import saving

        steps: list[int] = []
        real = saving.save_checkpoint
        patch.setattr(
            saving,
            "save_checkpoint",
            lambda folder, step, **kw: (steps.append(step), real(folder, step, **kw))[1],
        )
        timed = run_recipe(**run, output=str(tmp_path / "timed"))
    assert steps == [1, 2, 3, 4] and [p.name for p in timed.glob("checkpoint-*")] == [
        "checkpoint-4"
    ]
    whole = run_recipe(**{**run, "save_seconds": 0}, output=str(tmp_path / "whole"))
    assert files(timed / "model") == files(whole / "model")


def test_an_adapter_is_written_the_same_every_time(
    run_recipe: Runner, tmp_path: Path, tiny_folder: Path
) -> None:
    model = {"path": str(tiny_folder), "dtype": "float32", "lora": {"r": 2}}
    folder = run_recipe(**SFT, model=model, output=str(tmp_path / "run"), max_steps=1)
    config = (folder / "model" / "adapter_config.json").read_text()
    values = json.loads(config)
    assert list(values) == sorted(values) and values["target_modules"] == sorted(
        values["target_modules"]
    )
    assert (
        config == json.dumps(values, indent=2, sort_keys=True)
        and os.environ.get("PYTHONHASHSEED") != "0"
    )


def test_a_finished_run_without_its_report_gets_one(
    run_recipe: Runner, tmp_path: Path, capsys: Any
) -> None:
    """As after a kill just behind the last rename."""
    from posttrain.cli import main

    folder = run_recipe(**SFT, output=str(tmp_path / "run"), max_steps=2)
    before = files(folder)
    assert main(["resume", str(folder)]) == 0
    assert "is finished" in capsys.readouterr().out
    after = files(folder)
    assert after.pop("report.html").startswith(b"<!DOCTYPE html>") and after == before
    assert main(["resume", str(folder), "learning_rate=1e-5", "max_steps=3"]) == 1
    assert "--accept learning_rate" in capsys.readouterr().err
    assert (
        main(
            [
                "resume",
                str(folder),
                "learning_rate=1e-5",
                "max_steps=3",
                "--accept",
                "learning_rate",
            ]
        )
        == 0
    )
    assert [row["step"] for row in lines(folder / "metrics.jsonl")] == [1, 2, 3]
