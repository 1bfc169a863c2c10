"""The problems of an evaluation, encoded for a model, and what is printed of the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from posttrain.config import EvaluationConfig, Limits
from posttrain.data.account import Account
from posttrain.engines.torch import TorchEngine
from posttrain.evaluation.run import Evaluation, evaluate, evaluate_search, problems_text
from posttrain.evaluation.strategy import Strategy
from posttrain.methods.objects import settings_of_task, task_of
from posttrain.methods.prompts import decoder, encode_prompts, sampling_of
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec
from posttrain.terminal import write
from posttrain.training.plan import Facts

EVALUATED = "evaluation prompts"
"""What the prompts of an evaluation are called where their losses are reported."""


class Measurement:
    """The problems of an evaluation, encoded, and how completions of them are sampled.

    Only the first num_examples problems are encoded, so that a prompt that is not asked cannot stop
    an evaluation.

    Args:
        spec: the model that is measured, before its weights are loaded.
        strategy: a search whose choice is measured; None samples completions.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: EvaluationConfig,
        *,
        limits: Limits,
        account: Account,
        strategy: Strategy | None = None,
    ) -> None:
        self.config = config
        self.strategy = strategy
        self.task = task_of(config.task)
        self.sampling = sampling_of(config.sampling, self.task)
        self.num_available = len(self.task.examples)
        prompts = encode_prompts(
            spec,
            self.task,
            self.sampling,
            limits=limits,
            account=account,
            num_examples=config.num_examples,
            what=EVALUATED,
        )
        self.prompts = [(p.example, p.ids) for p in prompts]

    @property
    def problems(self) -> str:
        """How many problems are asked: "200 of 300 problems"."""
        return problems_text(len(self.prompts), self.num_available)

    @property
    def facts(self) -> Facts:
        """What a check shows."""
        number = self.config.num_samples
        samples = f", {number} sample{'s' * (number > 1)} each" if self.strategy is None else ""
        sampling = self.sampling
        facts = [
            ("task", f"{self.task.name}: {self.problems}{samples}"),
            (
                "sampling",
                f"at most {sampling.max_tokens} tokens, temperature {sampling.temperature:g}",
            ),
            ("search", str(self.strategy or "none")),
        ]
        if self.strategy is not None and self.strategy.oracle:
            facts.append(("oracle", self.strategy.warning().partition(": ")[2]))
        return facts

    def of(self, model: LanguageModel) -> Evaluation:
        """Outcomes of a model, alone or under the search."""
        engine, decode = TorchEngine(model), decoder(model)
        options: dict[str, Any] = {"sampling": self.sampling, "seed": self.config.seed}
        if self.strategy is None:
            result = evaluate(
                engine,
                self.prompts,
                self.task,
                decode,
                num_samples=self.config.num_samples,
                **options,
            )
        else:
            value = model.critic.at_ends if model.critic is not None else None
            result = evaluate_search(
                engine, self.prompts, self.task, decode, self.strategy, value=value, **options
            )
        result.num_available = self.num_available
        result.prompts_dropped = min(self.config.num_examples, self.num_available) - len(
            self.prompts
        )
        result.task_settings = settings_of_task(self.config.task)
        return result

    def report(self, result: Evaluation, console: Console) -> None:
        """Print the accuracy with its interval, and what belongs to it."""
        interval = result.accuracy()
        by = f" by {result.strategy}" if result.strategy else ""
        dropped = result.prompts_dropped
        lost = f"; {dropped} prompts too long for the context dropped" if dropped else ""
        write(
            console,
            f"{result.task}: accuracy {interval.estimate:.1%} (95 % interval {interval.low:.1%} to "
            f"{interval.high:.1%}) on {result.problems}{by}{lost}",
        )
        for line in details(result):
            write(console, f"  {line}", style="dim")
        if self.strategy is not None and self.strategy.oracle:
            write(console, self.strategy.warning(), style="yellow")


def details(result: Evaluation) -> list[str]:
    """The search with all its settings; pass@k, maj@k, tokens and what did not count."""
    lines = []
    if result.search is not None:
        lines.append(f"search {_with_settings(result.search, result.search_settings)}")
    if result.scorer is not None:
        settings = {k: v for k, v in result.scorer.items() if k != "name"}
        lines[-1] += (
            f"; scorer {_with_settings(result.scorer['name'], settings)}; oracle: "
            f"{str(bool(result.oracle)).lower()}"
        )
    metrics = result.metrics()
    parts = [
        f"{name} {value['estimate']:.1%}"
        for name, value in metrics.items()
        if name.startswith(("pass@", "maj@"))
    ]
    parts.append(
        f"{metrics['mean_tokens']:.0f} tokens per {'problem' if result.search else 'completion'}"
    )
    parts += [
        f"{metrics[name]:.1%} {what}"
        for name, what in (("truncated", "cut off"), ("unparsed", "without an answer"))
    ]
    if metrics["errors"]:
        parts.append(f"{metrics['errors']} failures of the verifier")
    return [*lines, ", ".join(parts)]


def _with_settings(name: str, settings: Mapping[str, Any]) -> str:
    """A name with its settings: "best_of_n (num_samples 8)"."""
    text = ", ".join(
        f"{k} {v!r}" if isinstance(v, str) else f"{k} {v}" for k, v in settings.items()
    )
    return f"{name} ({text})" if text else name
