"""Hostile and broken input of every kind ends in an error of ours, in bounded time and memory."""

from __future__ import annotations

import ast
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from posttrain.config import EndpointConfig
from posttrain.data import template_limits, text_files
from posttrain.data.formats import detect_format, normalise
from posttrain.data.rows import load_rows
from posttrain.data.templates import render
from posttrain.engines.secrets import check_secrets, key_for
from posttrain.errors import ConfigError, DataError, ModelError, TemplateError
from posttrain.models.finite import check_finite
from posttrain.terminal import visible, write

SOURCE = Path(__file__).parent.parent / "src" / "posttrain"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a \\ud83d"}', r"a.jsonl:1: half a character"),
        (
            "a.jsonl",
            b'{"n": ' + b"9" * 5000 + b"}",
            r"a.jsonl:1: an integer has more than 4,300 digits",
        ),
        (
            "a.jsonl",
            b'{"n": ' + b"[" * 100_000,
            r"a.jsonl:1: lists or objects are nested too deeply",
        ),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.csv", b"prompt;completion\na;b\n", "separated by ';'"),
        ("a.csv", b"What is 1+1?,\n2,3\n", "the first line must name the columns"),
        ("a.csv", b"a,a\n1,2\n", "'a' occurs twice"),
        (
            "a.csv",
            "prompt,completion\nMüller,b\n".encode("latin-1"),
            r"not UTF-8 text \(byte 0xfc in line 2\)",
        ),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9999)[:-20], "damaged or cut off"),
    ],
)
def test_hostile_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_rows(tmp_path / name)
    assert len(str(caught.value)) < 500


def test_long_cells_are_read_and_huge_lines_and_bombs_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "x" * 200_000 + "\n")
    assert len(load_rows(tmp_path / "a.csv")[0]["text"]) == 200_000
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write('{"text": "' + "x" * 5_000_000)
    monkeypatch.setattr(text_files, "MAX_LINE", 1_000_000)
    with pytest.raises(
        DataError, match=r"b.jsonl.gz:1: the line has more than 1,000,000 characters"
    ):
        load_rows(tmp_path / "b.jsonl.gz")
    monkeypatch.setattr(text_files, "GZIP_FREE", 1000)
    with pytest.raises(DataError, match="unpacks to more than .* gunzip"):
        load_rows(tmp_path / "b.jsonl.gz")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completions": ["x"], "rewards": None, "ranks": None},
        {"prompt": "a", "completions": ["x"], "rewards": [10**400]},
        {"prompt": "a", "completion": "b", "reward": 10**400},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [5]}]},
        {"messages": [{"role": "assistant", "content": "x", "weight": float("nan")}]},
        {"messages": [{"role": "assistant", "content": 5}]},
        {"prompt": "a", "completion": "b \ud83d"},
        {"conversations": [{"from": "function_call", "value": "[" * 100_000}]},
    ],
    ids=range(8),
)
def test_hostile_rows(row: dict[str, Any]) -> None:
    kinds = {"prompt": "a", "completions": ["x"], "rewards": [1.0]}
    form = detect_format([kinds if "completions" in row else row])
    with pytest.raises(DataError, match="row 3"):
        normalise(row, form, "3")


def test_mutated_files_give_rows_or_an_error_of_ours(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "completion": "b", "n": 1},
        {"prompt": "c é", "completion": "d", "n": 2},
    ]
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
    seeds = {
        "a.jsonl": lines,
        "a.json": json.dumps(rows).encode(),
        "a.csv": b'prompt,completion\n"x, y",1\n',
        "a.tsv": b"prompt\tcompletion\nx\t1\n",
        "a.txt": b"one\n\ntwo\n",
        "a.jsonl.gz": gzip.compress(lines),
    }
    draw = random.Random(0)
    for name, seed in seeds.items():
        for _ in range(150):
            data = bytearray(seed)
            for _ in range(draw.randint(1, 4)):
                place = draw.randrange(len(data))
                piece = draw.choice(
                    [b"", b'"', b"\x00", b"\xff", b"[" * 3000, b"\\ud800", b"9" * 4500, b",", b"\n"]
                )
                data[place : place + draw.randint(0, 3)] = piece
            (tmp_path / name).write_bytes(data)
            try:
                for i, row in enumerate(found := load_rows(tmp_path / name)):
                    normalise(row, detect_format(found), str(i))
            except DataError as error:
                assert len(str(error)) <= 2100


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 11 }}",
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for a in range(99) %}{% set ns.x = ns.x "
        "~ ns.x %}{% endfor %}{{ ns.x }}",
    ],
)
def test_a_template_is_stopped(
    template: str, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_limits, "SECONDS", 1.0)
    monkeypatch.setattr(tiny_tokenizer, "chat_template", template)
    with pytest.raises(TemplateError, match="takes more than"):
        render(tiny_tokenizer, [{"role": "user", "content": "x"}])


def test_a_weight_that_is_no_number_is_named() -> None:
    import torch

    layer = torch.nn.Linear(3, 2)
    check_finite(layer, "m")
    check_finite(torch.nn.Linear(3, 2, device="meta"), "m")
    with torch.no_grad():
        layer.weight[1, 1] = float("nan")
    with pytest.raises(ModelError, match="m: the weight 'weight' holds NaN"):
        check_finite(layer, "m")


def test_text_of_users_is_no_markup_and_no_escape_sequence() -> None:
    assert visible("a\x1b[31m\x9b\u202e\nb\ud83d") == "a␛[31m\\x9b\\u202e␊b\\ud83d"
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    write(console, "a[/bold]b [/INST] \x1b[2J")
    assert console.file.getvalue() == "a[/bold]b [/INST] ␛[2J\n"  # type: ignore[attr-defined]


def test_everything_is_printed_by_the_terminal_module() -> None:
    allowed = {
        "terminal.py",
        "math_worker.py",
        "pattern_worker.py",
        "guest/program.py",
    }  # workers speak JSON with their parent
    calls = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and not str(path).endswith(tuple(allowed)):
                name = ast.unparse(node.func)
                if name == "print" or name.endswith(
                    ("console.print", "console.rule", "console.log")
                ):
                    calls.append(f"{path.name}:{node.lineno}")
    assert not calls


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "https://me:sesame@h/v1"},
        {"url": "https://h/v1?api_key=sesame"},
        {"extra": {"api_key": "sesame"}},
        {"extra": {"headers": [{"Authorization": "sesame"}]}},
    ],
)
def test_secrets_in_a_recipe_are_refused_and_not_repeated(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="key_variable") as caught:
        check_secrets(EndpointConfig(**{"url": "https://h/v1", "model": "m", **settings}))
    assert "sesame" not in str(caught.value)
    check_secrets(
        EndpointConfig(
            "https://h/v1", "m", extra={"max_completion_tokens": 4, "stop_token_ids": [1]}
        )
    )


def test_a_key_goes_to_its_own_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "MY_API_KEY", "HOME"):
        monkeypatch.setenv(name, "sesame")
    assert key_for(EndpointConfig("https://api.openai.com/v1", "m")) == "sesame"
    assert key_for(EndpointConfig("http://127.0.0.1:8000/v1", "m", "MY_API_KEY")) == "sesame"
    assert key_for(EndpointConfig("https://evil.example/v1", "m")) is None
    assert key_for(EndpointConfig("https://openai.com.evil.example/v1", "m")) is None
    for variable in ("HF_TOKEN", "MY_API_KEY", "HOME"):
        with pytest.raises(ConfigError, match="key_variable"):
            key_for(EndpointConfig("https://evil.example/v1", "m", variable))
    monkeypatch.setenv("MY_API_KEY_HOST", "llm.example.org")
    assert key_for(EndpointConfig("https://llm.example.org/v1", "m", "MY_API_KEY")) == "sesame"
