"""From a task to prompts of token ids, checked before weights are loaded, and to completions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.config import Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.encode import encode_items
from posttrain.data.encoded import rounded_up
from posttrain.data.item import Item
from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.base import Engine
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError
from posttrain.models.adapters import refuse_virtual_score
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec
from posttrain.rewards.base import RewardSet
from posttrain.sources.collect import Collector, Prompt
from posttrain.types import Sampling, Task


def sampling_of(config: SamplingConfig | Sampling, task: Task) -> Sampling:
    """The sampling, with the task's stop strings and length where it names none."""
    return Sampling(
        max_tokens=config.max_tokens or task.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        min_p=config.min_p,
        stop=tuple(config.stop) or task.stop,
    )


def encode_prompts(
    spec: ModelSpec,
    task: Task,
    sampling: Sampling,
    *,
    limits: Limits,
    account: Account,
    num_examples: int | None = None,
    what: str = "prompts",
) -> list[Prompt]:
    """The prompts of a task as token ids, without those that are too long.

    A prompt is too long where prompt and sampling.max_tokens new tokens exceed the model's context.
    Such prompts are dropped, and counted in the account and the metric data/prompts_dropped.

    Args:
        num_examples: only the first so many examples are encoded, None = all.
        what: their name, for messages and metrics.

    Raises:
        DataError, ConfigError: more are too long than limits.max_prompts_dropped allows.
    """
    examples = task.examples[:num_examples]
    prompts = [
        Prompt(e, tuple(encode_prompt(spec.tokenizer, e.prompt, system=task.system)))
        for e in examples
    ]
    context = spec.context_length()
    if context is None:
        return prompts
    room = context - sampling.max_tokens
    fitting = [p for p in prompts if len(p.ids) <= room]
    dropped = [p for p in prompts if len(p.ids) > room]
    if dropped:
        _refuse_dropped(task, prompts, dropped, sampling, context, limits.max_prompts_dropped)
        longest = max(dropped, key=lambda p: len(p.ids))
        account.losses[f"{what} lost"] = (
            f"{len(dropped):,} of {len(prompts):,} dropped: with {sampling.max_tokens} new tokens "
            f"they exceed the model's context of {context} (the longest, {longest.example.id}, has "
            f"{len(longest.ids):,} tokens)"
        )
        account.metrics[f"data/{what.replace(' ', '_')}_dropped"] = float(len(dropped))
    return fitting


def _refuse_dropped(
    task: Task,
    prompts: list[Prompt],
    dropped: list[Prompt],
    sampling: Sampling,
    context: int,
    allowed: float,
) -> None:
    """Refuse to drop more prompts than allowed; the way out depends on what is too long."""
    share = len(dropped) / len(prompts)
    # Of a few prompts one may always be dropped, unless none may.
    num_allowed = max(allowed * len(prompts), 1 if allowed else 0)
    if len(dropped) <= num_allowed and len(dropped) < len(prompts):
        return
    accept = ""
    if len(dropped) < len(prompts):
        accept = f", or set max_prompts_dropped={rounded_up(share)} to drop them"
    longest = max(dropped, key=lambda p: len(p.ids))
    hopeless = [p for p in prompts if len(p.ids) + 1 > context]
    if len(hopeless) > allowed * len(prompts) or len(hopeless) == len(prompts):
        raise DataError(
            f"task {task.name!r}: {len(hopeless)} of {len(prompts)} prompts leave no room for a "
            f"completion in the model's context of {context} tokens (the longest, "
            f"{longest.example.id}, has {len(longest.ids)}), more than "
            f"max_prompts_dropped={allowed:g} allows; shorten the prompts, take a model with a "
            f"longer context{accept}"
        )
    room = context - max(len(p.ids) for p in prompts if len(p.ids) < context)
    raise ConfigError(
        f"sampling.max_tokens: {sampling.max_tokens} new tokens after the prompt exceed the "
        f"model's context of {context} for {len(dropped)} of {len(prompts)} prompts (the longest, "
        f"{longest.example.id}, has {len(longest.ids)} tokens), more than "
        f"max_prompts_dropped={allowed:g} allows; set it to at most {room}{accept}"
    )


def make_collector(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    rewards: RewardSet | None,
    sampling: Sampling,
    batch_size: int,
    num_generations: int,
    seed: int,
    engine: Engine | None = None,
    **options: Any,
) -> Collector:
    """A collector of completions with their rewards.

    Args:
        engine: what samples; None is the model itself. options: as `Collector` takes them.
    """
    return Collector(
        prompts,
        TorchEngine(model) if engine is None else engine,
        rewards,
        decode=decoder(model),
        sampling=sampling,
        batch_size=batch_size,
        num_generations=num_generations,
        seed=seed,
        **options,
    )


def decoder(model: LanguageModel) -> Callable[[Any], str]:
    """The function from a sample to its text."""

    def decode(sample: Any) -> str:
        return decode_completion(model.tokenizer, sample)

    return decode


def with_gold(spec: ModelSpec, prompts: Sequence[Prompt], task: Task) -> list[Prompt]:
    """The prompts with the token ids of their worked completions.

    Raises:
        DataError: an example has none.
    """
    without = [p.example.id for p in prompts if p.example.completion is None]
    if without:
        raise DataError(
            f"given_steps: {len(without)} examples of task {task.name!r} have no worked completion "
            f"to give the beginning of (first: {without[0]}); leave given_steps out"
        )
    items = [
        Item(p.example.id, prompt=p.example.prompt, completion=p.example.completion)
        for p in prompts
    ]
    encoded = [s for _, s in encode_items(items, spec.tokenizer)]
    return [
        dataclasses.replace(p, gold=tuple(s.ids[s.loss_mask].tolist()))
        for p, s in zip(prompts, encoded, strict=True)
    ]


def differing_tokens(spec: ModelSpec, other: ModelSpec) -> list[str]:
    """Tokens that one of two tokenizers lacks, or has under another id."""
    theirs = other.tokenizer.get_vocab()
    ours = spec.tokenizer.get_vocab()
    tokens = ours.keys() | theirs.keys()
    return sorted(token for token in tokens if ours.get(token) != theirs.get(token))


def check_critic(spec: ModelSpec, critic: ModelSpec | None) -> None:
    """Refuse a critic that cannot have a score, or reads other token ids than the policy.

    Args:
        critic: None is a copy of the policy's model.

    Raises:
        ModelError: it cannot be a critic. ConfigError: its tokenizer is another.
    """
    refuse_virtual_score((critic or spec).config.adapter)
    if critic is None:
        return
    critic.settings("token_score")
    if differing := differing_tokens(spec, critic):
        raise ConfigError(
            f"critic: {critic.name} has another tokenizer than {spec.name} ({len(differing)} "
            f"tokens differ, {differing[0]!r} among them), and it would read the policy's token "
            "ids as other text; take a critic of the same model family, or leave it out"
        )


def prompt_steps(prompts: Sequence[Prompt], batch_size: int) -> int:
    """Steps of one pass over the prompts."""
    return max(len(prompts) // min(batch_size, len(prompts)), 1)


def sampling_text(sampling: Sampling) -> str:
    """Length and temperature of completions, as a check shows them."""
    return f"at most {sampling.max_tokens} tokens, temperature {sampling.temperature:g}"


def prompts_text(task: Task, prompts: Sequence[Prompt]) -> str:
    """The prompts of a task, as a check shows them."""
    lengths = [len(p.ids) for p in prompts]
    if not any(lengths):  # episodes, which encode their own
        return f"{task.name}: {len(prompts)} prompts"
    return f"{task.name}: {len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens"
