"""What methods that learn from comparisons share: rows to sequences, where the reference comes
from, held-out loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from posttrain.config import DataConfig
from posttrain.data.encoded import Encoded
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.templates import template_fingerprint
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError
from posttrain.methods import rows
from posttrain.methods.evaluating import measuring_hook
from posttrain.methods.prompting import context_length
from posttrain.methods.run import Run
from posttrain.models.adapters import adapter_of
from posttrain.models.language_model import LanguageModel
from posttrain.models.vocabulary import DERIVED
from posttrain.terminal import write
from posttrain.training.objective import Objective, held_out
from posttrain.training.reference import add_ref_logprobs, as_reference, cache_folder
from posttrain.types import Request, Sampling

Groups = list[list[TokenSequence]]


def encode_data(
    run: Run, data: DataConfig, encode: Callable[..., Encoded], *, key: str = "data"
) -> Encoded:
    """The rows of `data` as sequences that are compared, by one of `data.encode`'s functions.

    Raises:
        ConfigError, DataError: a setting of `data` that cannot be; rows that cannot be compared.
    """
    if data.train_on != "auto":
        raise ConfigError(
            f"{key}.train_on: {data.train_on!r}; whole completions are compared, so leave it out"
        )
    return rows.encode_data(run, data, context_length(run), encode, key=key)


def check_carried(
    objective: Objective,
    sequences: Sequence[TokenSequence],
    roles: tuple[str, ...] = (),
    *,
    where: str = "data",
) -> None:
    """Refuse losses that ask for what the data do not have: a margin, or the third text of a
    triple.
    """
    for term in objective.terms:
        if "margin" in term.inputs and "margin" not in sequences[0].values:
            raise ConfigError(f"losses: {term.name!r} needs a column margin in {where}")
        if "gold" not in roles and any("gold" in name for name in term.inputs):
            raise ConfigError(
                f"losses: {term.name!r} needs a column reference (the third text of a triple) in "
                f"{where}"
            )


def comparison_facts(
    run: Run, encoded: Encoded, objective: Objective, what: str
) -> list[tuple[str, str]]:
    """What a check tells of data and losses. what: a group's name in the plural."""
    groups = encoded.groups or [[s] for s in encoded.sequences]
    shared, distinct = (
        int(encoded.lengths.sum()),
        sum(Tree.build(group).num_tokens for group in groups),
    )
    return [
        ("format", f"{encoded.form.name} ({encoded.form.reason})"),
        (
            what,
            f"{len(groups)} of {encoded.num_rows} rows; {encoded.truncated} cut, "
            f"{encoded.dropped} dropped as too long, "
            f"{len(encoded.masked)} with nothing to compare or learn",
        ),
        (
            "tokens",
            f"{shared}, of which {distinct} distinct; longest completion with prompt "
            f"{int(encoded.lengths.max())}",
        ),
        (
            "losses",
            ", ".join(f"{t.name} x {t.weight:g}" for t in objective.terms)
            + (" (with a frozen reference)" if objective.needs_reference else ""),
        ),
        ("template", template_fingerprint(run.tokenizer)),
    ]


def held_out_hooks(
    run: Run,
    model: LanguageModel,
    objective: Objective,
    batch: Callable[[], Batch] | None,
    steps: int,
) -> list[Any]:
    """Loss and rewards on eval_data: before the first step, every eval_every steps, and after
    the last.
    """
    if batch is None:
        return []
    return [
        measuring_hook(
            run, steps, lambda: held_out(model, objective, batch(), run.micro_batch_tokens(model))
        )
    ]


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    """Where the reference comes from.

    cached: its log-probs are computed before training and kept on disk, so that no copy of it is
    held in memory.
    every, mix: each so many steps (0: never) it moves to mix * policy + (1 - mix) * reference.
    by_steps: why `every` follows from the number of steps, if it does.
    """

    cached: bool = False
    every: int = 0
    mix: float = 1.0
    by_steps: str = ""

    def check(self, run: Run, objective: Objective) -> None:
        """Refuse what cannot work, before any weights are loaded."""
        key = "cache_reference" if self.cached else "reference_every"
        if (self.cached or self.every) and not objective.needs_reference:
            raise ConfigError(f"{key}: none of the losses asks for a reference; leave it out")
        if self.cached and self.every:
            raise ConfigError(
                "cache_reference and reference_every: a reference that moves cannot be cached; "
                "choose one"
            )
        whole = [n for n in sorted(objective.needs) if "ref_distribution" in DERIVED.get(n, (n,))]
        if self.cached and whole:
            raise ConfigError(
                f"cache_reference: a loss needs {whole[0]}, whole distributions, which are not "
                "kept; leave it out"
            )
        if self.every < 0 or not 0 < self.mix <= 1:
            raise ConfigError(
                f"reference_every: {self.every} must not be negative, and reference_mix: "
                f"{self.mix} must be above 0, at most 1"
            )
        config = run.model_config
        adapted = config.lora is not None or (
            config.adapter is not None and not config.adapter.own_weights
        )
        adapted |= adapter_of(run.model_path) is not None
        if self.every and self.mix < 1 and adapted:
            raise ConfigError(
                f"reference_mix: {self.mix} mixes weights, but adapters are taken over whole; set "
                "it to 1"
            )

    def prepare(self, run: Run, *parts: Sequence[Sequence[TokenSequence]]) -> None:
        """Give all sequences their cached reference log-probs, where they are to be cached."""
        if not self.cached:
            return
        model = run.load_model()
        groups = [group for part in parts for group in part]
        found, computed = add_ref_logprobs(
            model,
            groups,
            max_tokens=run.micro_batch_tokens(model),
            folder=cache_folder() / "reference",
        )
        write(run.console, f"reference log-probs: {found} sequences found, {computed} computed")

    def train(
        self, run: Run, make_source: Callable[[Any], Any], objective: Objective, **options: Any
    ) -> Any:
        """`run.train`, with the reference in memory if it has to be."""
        in_memory = objective.needs_reference and not self.cached
        return run.train(
            make_source,
            objective,
            load=lambda last: run.load_model(reference=in_memory, weights=last),
            by_steps=self.by_steps,
            **options,
        )

    def hooks(self, model: LanguageModel) -> list[Any]:
        """What moves the reference; checkpoints, which are made after it, hold it where it has
        moved.
        """
        if not self.every:
            return []

        def move(step: int, metrics: dict[str, float]) -> None:
            if step % self.every == 0:
                model.update_reference(self.mix)

        return [move]


def within_perplexity(run: Run, groups: Groups, percentile: float, num_samples: int) -> Groups:
    """The pairs whose completions are as likely as the reference's own: perplexity below a
    percentile of its samples'.

    PP(y) = exp(-1/T sum_t log ref(y_t)); the bound is the percentile over num_samples completions
    that the reference writes for the data's prompts. How many pairs were left out is printed, and
    told as data/perplexity_dropped at step 0.

    Raises:
        DataError: no pair is left.
    """
    model = run.load_model()
    add_ref_logprobs(model, groups, max_tokens=run.micro_batch_tokens(model))
    bound = float(np.percentile(_perplexities(run, model, groups, num_samples), percentile))

    def likely(sequence: TokenSequence) -> bool:
        return float(np.exp(-sequence.streams["ref_logprobs"][sequence.loss_mask].mean())) <= bound

    kept = [group for group in groups if all(likely(s) for s in group[:2])]
    for sequence in (s for group in groups for s in group):
        del sequence.streams["ref_logprobs"]
    dropped = len(groups) - len(kept)
    told = (
        f"{dropped} of {len(groups)} pairs are above perplexity {bound:.2f}, {percentile:g} % of "
        "the reference's own samples'"
    )
    if not kept:
        raise DataError(
            f"perplexity_percentile: {told}; raise it, or fine-tune on the chosen completions first"
        )
    write(run.console, told)
    run.first_metrics["data/perplexity_dropped"] = float(dropped)
    return kept


def _perplexities(run: Run, model: LanguageModel, groups: Groups, num_samples: int) -> list[float]:
    """Of completions that the reference writes for prompts drawn from the data."""
    draw = np.random.default_rng((run.recipe.seed, 11))
    chosen = [
        groups[i][0]
        for i in draw.choice(len(groups), num_samples, replace=num_samples > len(groups))
    ]
    prompts = [tuple(int(t) for t in s.ids[: int(np.argmax(s.loss_mask))]) for s in chosen]
    longest = max(int(s.loss_mask.sum()) for group in groups for s in group)
    room = (model.context_length or 1 << 30) - max(len(p) for p in prompts)
    sampling = Sampling(max_tokens=min(longest, room))
    requests = [
        Request(p, sampling, seed=int(seed))
        for p, seed in zip(prompts, draw.integers(0, 2**62, len(prompts)))
    ]
    with as_reference(model), torch.no_grad():
        rows = TorchEngine(model).generate(requests)
    return [
        float(np.exp(-np.mean(sample.raw_logprobs))) for row in rows for sample in row if sample.ids
    ]
