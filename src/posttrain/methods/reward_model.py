"""Models of scores: reward models on preferences or rankings, outcome models and process models
on labels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from posttrain import registry
from posttrain.config import Component, DataConfig
from posttrain.data.forest import Batch, Tree
from posttrain.data.formats import detect_format
from posttrain.data.preview import preview
from posttrain.data.scored import EncodedScores, Kind, encode_scores, kind_of, reshaped
from posttrain.data.stream import DataSource
from posttrain.data.templates import template_fingerprint
from posttrain.errors import ConfigError
from posttrain.evaluation.reward_model import flat, measure
from posttrain.inputs import SCORES
from posttrain.methods import rows
from posttrain.methods.evaluating import measuring_hook
from posttrain.methods.prompting import context_length
from posttrain.methods.run import Run, TrainingJob
from posttrain.models.load import separate_padding
from posttrain.models.score_model import ScoreModel
from posttrain.registry import methods
from posttrain.training.objective import Objective, held_out

DEFAULT_LOSS: dict[Kind, str] = {
    "pairs": "bradley_terry",
    "listwise": "plackett_luce",
    "rewarded": "regression",
    "labelled": "outcome",
    "process": "process",
}
_ALWAYS = {"scores", "score", "sequence", "num_sequences", "length", "group", "target"}
_CARRIED: dict[Kind, set[str]] = {
    "pairs": {
        "chosen_score",
        "rejected_score",
        "chosen_length",
        "rejected_length",
        "margin",
        "probability",
    },
    "listwise": {"reward"},
    "rewarded": {"reward"},
    "labelled": {"label", "labels"},
    "process": {"labels"},
}


@methods.register
def reward_model(
    run,
    *,
    data: DataConfig,
    eval_data: DataConfig | None = None,
    losses: list[Component] = (),  # type: ignore[assignment]
    step_separator: str = "\n",
    learning_rate: float = 1e-5,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
) -> TrainingJob:
    """Train a model whose head gives one number: a reward model, an outcome model or a process
    model.

    The rows' format decides the loss where none is named:
      prompt, chosen, rejected (margin, probability)   bradley_terry   scored at the last token
      prompt, completions, rewards (or ranks)          plackett_luce   scored at the last token
      prompt, completion, reward                       regression      scored at the last token (or
          any other loss: the
                                                       completions of a prompt are then compared, or
                                                       0 and 1 are labels)
      prompt, completion, label                        outcome         scored at every token
          (losses: [binary]: the last)
      prompt, completions, labels                      process         scored at the last token of
          each step
    The folder model/ loads with AutoModelForSequenceClassification where the last token is scored,
    else with AutoModelForTokenClassification. The head starts at 0. With eval_data its loss,
    accuracy, calibration and the like are told before, every eval_every steps, and after.
    """
    context = context_length(run, "sequence_score")
    separate_padding(run.tokenizer)  # as it will be saved
    kind = _wanted(run, data, losses)
    components = losses or [Component(DEFAULT_LOSS[kind])]
    _check(components, kind)
    every_token = kind == "labelled" and any(
        "labels" in registry.losses.entry(c.name).inputs for c in components
    )
    encoded = encode_data(
        run, data, context, kind=kind, every_token=every_token, step_separator=step_separator
    )
    roles = ("chosen", "rejected") if kind == "pairs" else ()
    objective = Objective(components, roles=roles, groups=kind == "listwise", carries=SCORES)
    source = DataSource(
        encoded.trees, batch_size=batch_size, seed=run.recipe.seed, whole=objective.whole
    )
    steps = run.steps_for(source.steps_per_epoch)
    per: Literal["sequence", "token"] = "token" if every_token or kind == "process" else "sequence"
    others = None
    if eval_data is not None:
        others = encode_data(
            run,
            eval_data,
            context,
            kind=kind,
            every_token=every_token,
            step_separator=step_separator,
            key="eval_data",
        )
        if others.kind != kind:
            raise ConfigError(
                f"eval_data: rows of format {others.form.name}, but data are of format "
                f"{encoded.form.name}"
            )

    def make_hooks(model: Any, _: Any) -> list[Any]:
        if others is None:
            return []
        return [
            measuring_hook(
                run,
                steps,
                lambda: _evaluated(model, objective, others, run.micro_batch_tokens(model)),
            )
        ]

    def execute() -> None:
        run.train(
            lambda _: source,
            objective,
            steps=steps,
            load=lambda last: run.load_score_model(per=per, weights=last),
            make_hooks=make_hooks,
        )

    facts = _facts(run, encoded, objective, steps, batch_size)
    return TrainingJob(
        facts, execute, lambda num: preview(encoded, run.tokenizer, run.console, num)
    )


def read_rows(run: Run, data: DataConfig) -> list[dict[str, Any]]:
    """The rows of a recipe's data."""
    if data.train_on != "auto":
        raise ConfigError(
            f"data.train_on: {data.train_on!r}; what is scored follows from the rows' format, so "
            "leave it out"
        )
    return rows.read_rows(run, data)


def encode_data(
    run: Run,
    data: DataConfig,
    context: int | None,
    *,
    kind: Kind,
    every_token: bool = False,
    step_separator: str = "\n",
    key: str = "data",
) -> EncodedScores:
    """The rows of a recipe's data as sequences that are scored. kind: what rewarded rows are
    taken for.
    """
    if not step_separator:
        raise ConfigError(
            "step_separator: it is empty; name the text between steps, such as a line break"
        )
    examples = read_rows(run, data)
    if kind_of(detect_format(examples)) == "rewarded":
        examples = reshaped(examples, kind)
    encode = partial(encode_scores, every_token=every_token, separator=step_separator)
    return rows.encode_data(run, data, context, encode, examples, key=key)


def _wanted(run: Run, data: DataConfig, losses: list[Component]) -> Kind:
    """The kind of the rows; of rewarded rows what the losses make of them."""
    kind = kind_of(detect_format(read_rows(run, data)))
    asked = {name for item in losses for name in registry.losses.entry(item.name).inputs}
    if kind != "rewarded" or not losses:
        return kind
    if asked & {"chosen_score", "rejected_score"}:
        return "pairs"
    if any(registry.losses.entry_of(item).per == "group" for item in losses):
        return "listwise"
    return "labelled" if asked & {"label", "labels"} else kind


def _check(components: list[Component], kind: Kind) -> None:
    for item in components:
        for name in registry.losses.entry(item.name).inputs:
            if name not in _ALWAYS | _CARRIED[kind]:
                raise ConfigError(
                    f"losses: {item.name!r} needs {name!r}, which a score model on these rows "
                    "does not have; the loss of such "
                    f"rows is {DEFAULT_LOSS[kind]!r}"
                )


def _evaluated(
    model: ScoreModel, objective: Objective, encoded: EncodedScores, max_tokens: int
) -> dict[str, float]:
    """Loss and everything else there is to tell of held-out rows, as "eval_NAME"."""
    batch = Batch([Tree.build(tree) for tree in encoded.trees], whole=objective.whole)
    loss = held_out(model, objective, batch, max_tokens)
    measured = measure(encoded.kind, encoded.trees, model.score(encoded.trees, max_tokens))
    return {**loss, **{f"eval_{name}": value for name, value in flat(measured).items()}}


def _facts(
    run: Run, encoded: EncodedScores, objective: Objective, steps: int, batch_size: int
) -> list[tuple[str, str]]:
    lengths = encoded.lengths
    distinct = sum(Tree.build(tree).num_tokens for tree in encoded.trees)
    where = (
        "each step's last token"
        if encoded.kind == "process"
        else ("every token" if "labels" in encoded.sequences[0].streams else "the last token")
    )
    return [
        ("format", f"{encoded.form.name} ({encoded.form.reason})"),
        (
            "rows",
            f"{len(encoded.trees)} of {encoded.num_rows}; {encoded.truncated} cut, "
            f"{encoded.dropped} dropped as too long, "
            f"{len(encoded.masked)} with nothing to compare",
        ),
        (
            "scored",
            f"{encoded.num_trained} tokens: {where} of {len(encoded.sequences)} completions",
        ),
        (
            "tokens",
            f"{int(lengths.sum())}, of which {distinct} distinct; longest completion with prompt "
            f"{int(lengths.max())}",
        ),
        ("losses", ", ".join(f"{t.name} x {t.weight:g}" for t in objective.terms)),
        ("template", template_fingerprint(run.tokenizer)),
        ("steps", f"{steps} of {batch_size} rows"),
    ]
