"""Measure a model, alone or under a search strategy."""

from __future__ import annotations

from pathlib import Path

from posttrain import registry
from posttrain.config import Component, EvaluationConfig
from posttrain.errors import ConfigError
from posttrain.methods.evaluating import EVALUATED, evaluate_model
from posttrain.methods.prompting import encode_prompts, make_sampling, make_task
from posttrain.methods.run import Job, Run
from posttrain.registry import methods
from posttrain.rewards.base import RewardSet


@methods.register
def evaluate(run, *, evaluation: EvaluationConfig, search: Component | None = None, scorer: Component | None = None) -> Job:
    """Sample completions of a task's problems and tell accuracy, pass@k and maj@k with intervals.

    With `search` (such as {name: majority_vote, num_samples: 8}) the strategy's choice is measured, and all tokens it
    spends are counted. What guides it is the reward `scorer` (such as {name: reward_model, path: FOLDER}); left out, the task's
    own verdict, an oracle that shows what a perfect scorer would give.
    """
    task = make_task(run, evaluation.task)
    if scorer is not None and search is None:
        raise ConfigError("scorer: it guides a search; name one, such as search: {name: best_of_n, num_samples: 8}")
    guide = RewardSet([(scorer.name, 1.0, scorer.settings)], task=task) if scorer is not None else None
    if guide is not None:
        guide.self_test(task.examples)
    sampling = make_sampling(evaluation.sampling, task)
    count = len(encode_prompts(run, task, sampling, num_examples=evaluation.num_examples, what=EVALUATED))
    facts = [
        ("task", f"{task.name}: {count} problems, {evaluation.num_samples} samples each"),
        ("sampling", f"at most {sampling.max_tokens} tokens, temperature {sampling.temperature:g}"),
        ("search", (search.name if search else "none") + (f", guided by {scorer.name}" if scorer else "")),
    ]

    def execute() -> None:
        critic = _critic(run, search)
        model = run.load_model()
        if critic is not None:
            model.critic = run.load_score_model(per="token", weights=critic)
        run.open()
        evaluate_model(run, model, search, guide)

    return Job(facts, execute)


def _critic(run: Run, search: Component | None) -> Path | None:
    """The folder of the model's critic, where the strategy asks for values.

    Raises:
        ConfigError: there is none.
    """
    if search is None or "value" not in registry.searches.entry(search.name).inputs:
        return None
    folder = Path(run.model_path) / "critic"
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"search {search.name!r} asks for values, and the model {run.model_path} has no critic (there is no {folder}). "
            "Train one with method offline and losses that ask for values, such as oreo_policy and oreo_value"
        )
    return folder
