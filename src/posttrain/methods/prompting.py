"""From a recipe's task to prompts of token ids, checked before any weights are loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from posttrain import registry
from posttrain.config import Component, ModelConfig, SamplingConfig
from posttrain.data.encode import encode_items
from posttrain.data.encoded import rounded_up
from posttrain.data.item import Item
from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError, PosttrainError
from posttrain.methods.run import Run
from posttrain.models.adapters import refuse_virtual_score
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import Kind, load_config, load_tokenizer
from posttrain.rewards.base import RewardSet
from posttrain.rollouts.collect import Collector, Prompt
from posttrain.tasks.answers import refuse_missing_answers
from posttrain.types import Sampling, Task


def make_task(run: Run, item: Component) -> Task:
    """The task of a recipe; a setting called `path` may be relative to the recipe."""
    settings = dict(item.settings)
    if isinstance(settings.get("path"), str):
        settings["path"] = run.resolve(settings["path"])
    make = registry.tasks.bind(item.name, settings)
    try:
        task: Task = make()
    except (PosttrainError, OSError, KeyboardInterrupt):
        raise
    except (
        BaseException
    ) as error:  # of a user's task; also SystemExit, which would end the run with status 0
        raise ConfigError(
            f"task {item.name!r} raised {type(error).__name__}: {error}. Mend the function, or "
            "its settings; "
            "--traceback shows where"
        ) from error
    if not isinstance(task, Task):
        raise ConfigError(
            f"task {item.name!r} returned {type(task).__name__}, but a posttrain.types.Task is "
            "wanted"
        )
    if not task.examples:
        raise DataError(
            f"task {item.name!r} has no examples; look at its settings with `posttrain explain "
            f"tasks {item.name}`"
        )
    return task


def make_rewards(run: Run, rewards: Sequence[Component], task: Task) -> RewardSet:
    """The recipe's rewards, within its limits of time and of failures."""
    refuse_missing_answers(task, rewards)
    return RewardSet(
        [(c.name, c.weight, c.settings) for c in rewards],
        task=task,
        **reward_limits(run),
    )


def reward_limits(run: Run) -> dict[str, float]:
    """The recipe's limits of a reward's time and failures, as `RewardSet` takes them."""
    return {
        "max_failed": run.recipe.max_failed_rewards,
        "timeout_seconds": run.recipe.reward_timeout_seconds,
    }


def make_sampling(config: SamplingConfig, task: Task) -> Sampling:
    """The recipe's sampling with the task's stop strings and length where the recipe is silent."""
    return Sampling(
        max_tokens=config.max_tokens or task.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        min_p=config.min_p,
        stop=tuple(config.stop) or task.stop,
    )


def encode_prompts(
    run: Run,
    task: Task,
    sampling: Sampling,
    *,
    num_examples: int | None = None,
    what: str = "prompts",
) -> list[Prompt]:
    """The prompts of a task as token ids, without those that are too long.

    A prompt is too long where prompt and sampling.max_tokens new tokens exceed the model's context.
    Such prompts are dropped and counted: `run.lost`, and the metric data/prompts_dropped.

    Args:
        num_examples: only the first so many examples are asked for, None = all. what: their name,
        for
            messages and metrics.
    Raises:
        DataError, ConfigError: more are too long than the recipe's max_prompts_dropped allows.
    """
    examples = task.examples[:num_examples]
    prompts = [
        Prompt(e, tuple(encode_prompt(run.tokenizer, e.prompt, system=task.system)))
        for e in examples
    ]
    context = context_length(run)
    if context is None:
        return prompts
    fitting = [p for p in prompts if len(p.ids) + sampling.max_tokens <= context]
    dropped = [p for p in prompts if len(p.ids) + sampling.max_tokens > context]
    if dropped:
        _refuse_dropped(run, task, prompts, dropped, sampling, context)
        longest = max(dropped, key=lambda p: len(p.ids))
        run.lost[f"{what} lost"] = (
            f"{len(dropped):,} of {len(prompts):,} dropped: with {sampling.max_tokens} new tokens "
            "they exceed the model's "
            f"context of {context} (the longest, {longest.example.id}, has {len(longest.ids):,} "
            "tokens)"
        )
        run.first_metrics[f"data/{what.replace(' ', '_')}_dropped"] = float(len(dropped))
    return fitting


def _refuse_dropped(
    run: Run,
    task: Task,
    prompts: list[Prompt],
    dropped: list[Prompt],
    sampling: Sampling,
    context: int,
) -> None:
    """Refuse to drop more prompts than the recipe allows; the way out depends on what is too
    long.
    """
    allowed = run.recipe.max_prompts_dropped
    share = len(dropped) / len(prompts)
    if share <= allowed and len(dropped) < len(prompts):
        return
    accept = (
        f", or set max_prompts_dropped={rounded_up(share)} to drop them"
        if len(dropped) < len(prompts)
        else ""
    )
    longest = max(dropped, key=lambda p: len(p.ids))
    hopeless = [p for p in prompts if len(p.ids) + 1 > context]
    if len(hopeless) > allowed * len(prompts) or len(hopeless) == len(prompts):
        raise DataError(
            f"task {task.name!r}: {len(hopeless)} of {len(prompts)} prompts leave no room for a "
            "completion in the model's "
            f"context of {context} tokens (the longest, {longest.example.id}, has "
            f"{len(longest.ids)}), more than "
            f"max_prompts_dropped={allowed:g} allows; shorten the prompts, take a model with a "
            f"longer context{accept}"
        )
    room = context - max(len(p.ids) for p in prompts if len(p.ids) < context)
    raise ConfigError(
        f"sampling.max_tokens: {sampling.max_tokens} new tokens after the prompt exceed the "
        f"model's context of {context} for "
        f"{len(dropped)} of {len(prompts)} prompts (the longest, {longest.example.id}, has "
        f"{len(longest.ids)} tokens), more "
        f"than max_prompts_dropped={allowed:g} allows; set it to at most {room}{accept}"
    )


def make_collector(
    run: Run,
    model: LanguageModel,
    prompts: Sequence[Prompt],
    rewards: RewardSet | None,
    sampling: Sampling,
    *,
    batch_size: int,
    num_generations: int,
    greedy: bool = False,
    max_resamples: int = 0,
    given_steps: int = 0,
) -> Collector:
    """What samples and rewards completions with the model that is trained."""
    return Collector(
        prompts,
        TorchEngine(model),
        rewards,
        decode=lambda sample: decode_completion(model.tokenizer, sample),
        sampling=sampling,
        batch_size=batch_size,
        num_generations=num_generations,
        seed=run.recipe.seed,
        greedy=greedy,
        max_resamples=max_resamples,
        given_steps=given_steps,
    )


def with_gold(run: Run, prompts: Sequence[Prompt], task: Task) -> list[Prompt]:
    """The prompts with the token ids of their worked completions.

    Raises:
        DataError: an example has none.
    """
    without = [p.example.id for p in prompts if p.example.completion is None]
    if without:
        raise DataError(
            f"given_steps: {len(without)} examples of task {task.name!r} have no worked "
            "completion to give the beginning of "
            f"(first: {without[0]}); leave given_steps out"
        )
    items = [
        Item(p.example.id, prompt=p.example.prompt, completion=p.example.completion)
        for p in prompts
    ]
    encoded = [s for _, s in encode_items(items, run.tokenizer)]
    return [
        dataclasses.replace(p, gold=tuple(s.ids[s.loss_mask].tolist()))
        for p, s in zip(prompts, encoded, strict=True)
    ]


def differing_tokens(run: Run, other: ModelConfig) -> list[str]:
    """Tokens that another model's tokenizer has not, or under another id, or that it has beside
    the run's own.
    """
    where = run.resolve(other.tokenizer) if other.tokenizer else run.place_of(other)
    theirs = load_tokenizer(
        where, revision=other.revision, trust_remote_code=other.trust_remote_code
    ).get_vocab()
    ours = run.tokenizer.get_vocab()
    return sorted(
        token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)
    )


def check_critic(run: Run, critic: ModelConfig | None) -> None:
    """The critic's model exists, can have a score, and reads the policy's token ids.

    critic: None is a copy of the policy's model.

    Raises:
        ModelError: it cannot be a critic. ConfigError: its tokenizer is another.
    """
    refuse_virtual_score((critic or run.model_config).adapter)
    if critic is None:
        return
    place = run.place_of(critic)
    load_config(
        place,
        kind="token_score",
        revision=critic.revision,
        trust_remote_code=critic.trust_remote_code,
    )
    if differing := differing_tokens(run, critic):
        raise ConfigError(
            f"critic: {critic.path} has another tokenizer than {run.model_config.path} "
            f"({len(differing)} tokens differ, "
            f"{differing[0]!r} among them), and it would read the policy's token ids as other "
            "text; take a critic of the same "
            "model family, or leave it out"
        )


def context_length(run: Run, kind: Kind = "language") -> int | None:
    """Positions that the model's config allows a sequence, read without the weights. kind: of
    the model that is loaded.
    """
    model = run.model_config
    config = load_config(
        run.model_path,
        kind=kind,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
    )
    if kind != "language":
        refuse_virtual_score(model.adapter)
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return limit if limit is None or model.adapter is None else limit - model.adapter.virtual_tokens
