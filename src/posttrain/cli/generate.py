"""`posttrain generate MODEL`: completions of prompts as rows of JSONL."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.cli.runs import notice
from posttrain.cli.writer import Writer, split_settings
from posttrain.errors import ConfigError, DataError
from posttrain.terminal import echo
from posttrain.types import Text

BATCH = 64
"""Prompts at a time; their rows are written before the next ones are read."""


def generate(options: argparse.Namespace) -> int:
    """Write {"prompt", "completion", "finish_reason", "num_tokens"} of every prompt.

    Raises:
        ConfigError: no prompts, or the output file exists. DataError: rows without a prompt.
    """
    if options.num < 1:
        raise ConfigError(f"--num: {options.num} must be at least 1")
    output = Path(options.output) if options.output else None
    if output is not None and output.exists():
        raise ConfigError(f"--output: {output} exists; choose another file or remove it")
    split_settings(options.model, options.overrides)  # wrong keys, before rows are read
    prompts = [*options.prompt, *(_prompts_of(options.data, options.limit) if options.data else [])]
    if not prompts:
        raise ConfigError("generate needs --prompt TEXT or --data FILE")
    writer = Writer(options.model, options.overrides, seed=options.seed)
    rows = _rows(writer, prompts, options)
    if output is None:
        for row in rows:
            echo(json.dumps(row, ensure_ascii=False))
        return 0
    output.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with output.open("x", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    notice(f"wrote {output}: {count} completions of {len(prompts)} prompts")
    return 0


def as_chat(prompt: Text, system: str | None, *, template: bool) -> Text:
    """A prompt as the model reads it: a user's message where it has a chat template."""
    from posttrain.data.templates import as_messages

    if template and isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return as_messages(prompt, system)


def _rows(
    writer: Writer, prompts: list[Text], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        texts = [as_chat(p, options.system, template=writer.has_template) for p in part]
        seed = options.seed + start
        groups = writer.write(texts, num=options.num, seed=seed)
        for prompt, group in zip(part, groups, strict=True):
            for completion in group:
                yield {"prompt": prompt, **completion}


def _prompts_of(path: str, limit: int | None) -> list[Text]:
    """The prompts of a file's rows; of a conversation, what comes before the last answer."""
    from posttrain.data.rows import load_rows

    prompts: list[Text] = []
    for number, row in enumerate(load_rows(path, limit=limit)):
        prompt = next((row[k] for k in ("prompt", "question", "instruction") if row.get(k)), None)
        if prompt is None and isinstance(row.get("messages"), list):
            messages = row["messages"]
            prompt = messages[:-1] if messages[-1].get("role") == "assistant" else messages
        if not prompt:
            columns = ", ".join(sorted(map(str, row)))
            raise DataError(
                f"{path}: row {number} has no column prompt, question, instruction or messages "
                f"(its columns: {columns})"
            )
        prompts.append(prompt)
    return prompts
