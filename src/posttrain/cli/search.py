"""`posttrain search MODEL`: answers of a test-time search, on a task or on prompts."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain import registry
from posttrain.cli import tradeoff
from posttrain.cli.arguments import search_name, search_recipe
from posttrain.cli.libraries import prepare_libraries
from posttrain.cli.parser import Command
from posttrain.cli.writer import amateur_config, model_place, split_settings
from posttrain.config import Component, Recipe
from posttrain.errors import ConfigError
from posttrain.overrides import apply_overrides
from posttrain.terminal import echo

MAX_CHARACTERS = 60
"""Of an answer or a text on a line."""

Perform = Callable[[Recipe, argparse.Namespace], int]
"""Runs a recipe, or only checks or shows it as the flags say."""


def commands(perform: Perform) -> dict[str, Command]:
    """The commands of test-time search, by name."""
    return {
        "search": Command(
            "evaluate",
            "answer a task or prompts by a test-time search",
            lambda options: search(options, perform),
            arguments,
            ("model",),
            changes=True,
        ),
        "tradeoff": Command(
            "evaluate",
            "accuracy of search strategies against tokens, seconds and FLOPs",
            tradeoff.tradeoff,
            tradeoff.arguments,
            ("model",),
            changes=True,
        ),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.usage = (
        "posttrain search MODEL --search NAME [--task T | --data FILE | --prompt TEXT]\n"
        "                 [--budget N] [key=value ...]"
    )
    parser.epilog = (
        "changes: settings of the strategy (num_samples= ...; `posttrain explain searches NAME`), "
        "task.KEY=, scorer=, amateur=, num_examples=, temperature=, max_tokens= ... MODEL may be "
        "the address of a server (http://...), with endpoint.model=NAME. An interrupted search on "
        "a task goes on with `posttrain resume RUN`."
    )
    parser.add_argument("--search", help="strategy; `posttrain ls searches` lists them")
    parser.add_argument("--task", help="task whose problems are answered")
    parser.add_argument("--data", help="file of prompts and answers")
    parser.add_argument("--prompt", action="append", default=[], help="a prompt; may be repeated")
    parser.add_argument("--budget", type=int, help="most tokens sampled per problem")
    parser.add_argument("--policy", help="file of a compute-optimal policy, which chooses")
    parser.add_argument("--output", help="folder for evaluation.json and journal (runs/search)")
    parser.add_argument("--check", action="store_true", help="check without weights, then stop")
    parser.add_argument("--dry-run", action="store_true", help="check, show the recipe, then stop")


def search(options: argparse.Namespace, perform: Perform) -> int:
    """Run a search and print what it chose for each problem.

    Raises:
        ConfigError: a wrong strategy, key or combination, before weights are loaded.
    """
    given = [f"--{n}" for n in ("task", "data", "prompt") if getattr(options, n)]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)}: give one of them")
    if options.prompt:
        return _answer(options)
    recipe = search_recipe(options)
    status = perform(recipe, options)
    if not (options.check or options.dry_run):
        echo(choices_text(Path(str(recipe.output)) / "evaluation.json"))
    return status


def choices_text(path: Path) -> str:
    """A line for each problem of an evaluation: what was chosen, whether it was right, tokens."""
    examples = json.loads(path.read_text(encoding="utf-8"))["examples"]
    lines = []
    for e in examples:
        verdict = "right" if e["correct"][0] >= 1 else "wrong"
        tokens = sum(e["num_tokens"])
        lines.append(f"{e['id']}: {_short(e['answers'][0])} ({verdict}, {tokens:,} tokens)")
    return "\n".join(lines)


def _short(answer: str | None) -> str:
    if answer is None:
        return "no answer"
    text = " ".join(str(answer).split())
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3]}..."


def _answer(options: argparse.Namespace) -> int:
    """Answer prompts, and print each choice with its votes and tokens."""
    name = search_name(options)
    strategy, chosen_by, rest = _split(options, name)
    served = options.model.startswith(("http://", "https://"))
    endpoint = [text for text in rest if text.startswith("endpoint.")]
    config, sampling = split_settings(
        "embedded" if served else options.model, [t for t in rest if t not in endpoint]
    )
    place = "" if served else model_place(config.path)
    prepare_libraries(names=[place])
    from posttrain.config import EndpointConfig
    from posttrain.methods.run_search import run_search
    from posttrain.search.base import Selection
    from posttrain.typecheck import check

    model: Any = dataclasses.replace(config, path=place)
    if served:
        raw = apply_overrides({"endpoint": {"url": options.model}}, endpoint)
        model = check(raw["endpoint"], EndpointConfig, "endpoint")
    results = run_search(
        model,
        options.prompt,
        strategy,
        **chosen_by,
        sampling=sampling,
        budget=options.budget,
        journal=Path(options.output) / "journal.jsonl" if options.output else None,
    )
    for prompt, result in zip(options.prompt, results, strict=True):
        echo(f"> {prompt}")
        if not isinstance(result, Selection):
            echo(f"failed: {result.reason}")
            continue
        echo(result.text.strip())
        votes = ", ".join(f"{_short(a)}: {w:g}" for a, w in result.votes.items())
        shown = f"; votes {votes}" if votes else ""
        echo(f"({_short(result.answer)}; {result.num_tokens:,} tokens{shown})")
    return int(any(not isinstance(result, Selection) for result in results))


def _split(options: argparse.Namespace, name: str) -> tuple[Component, dict[str, Any], list[str]]:
    """The strategy with its settings; scorer, oracle and amateur; and the other changes."""
    own, rest = registry.searches.entry(name).settings, []
    raw: dict[str, Any] = {"path": options.policy} if options.policy else {}
    chosen_by: dict[str, Any] = {}
    for text in options.overrides:
        first = text.partition("=")[0].strip().partition(".")[0]
        if first in own:
            raw = apply_overrides(raw, [text])
        elif first in ("scorer", "oracle", "amateur"):
            chosen_by = apply_overrides(chosen_by, [text])
        else:
            rest.append(text)
    if "amateur" in chosen_by:
        chosen_by["amateur"] = amateur_config(chosen_by["amateur"])
    return Component(name, raw), chosen_by, rest
