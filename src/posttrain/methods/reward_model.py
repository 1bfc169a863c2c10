"""Models of scores: reward models on preferences or rankings, outcome models and process models on
labels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from posttrain import registry
from posttrain.config import Component, DataConfig
from posttrain.data import training_data
from posttrain.data.account import Account
from posttrain.data.forest import Batch, Tree
from posttrain.data.formats import detect_format
from posttrain.data.preview import preview
from posttrain.data.scored import EncodedScores, Kind, encode_scores, kind_of, reshaped
from posttrain.data.templates import template_facts
from posttrain.data.training_data import steps_text
from posttrain.errors import ConfigError
from posttrain.evaluation.reward_model import flat, measure
from posttrain.inputs import SCORES
from posttrain.methods.comparisons import losses_text
from posttrain.methods.objects import Losses, Rows, components_of, data_of
from posttrain.models.load import separate_padding
from posttrain.models.score_model import ScoreModel
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.rows import DataSource
from posttrain.training.objective import Objective, held_out
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Facts, Measure, Plan, Work, steps_of

DEFAULT_LOSS: dict[Kind, str] = {
    "pairs": "bradley_terry",
    "listwise": "plackett_luce",
    "rewarded": "regression",
    "labelled": "outcome",
    "process": "process",
}
_ALWAYS = {
    "scores",
    "score",
    "sequence",
    "num_sequences",
    "length",
    "completion_length",
    "group",
    "target",
}
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


@methods.register(trains="scores")
def reward_model(
    data: Rows,
    *,
    eval_data: Rows | None = None,
    losses: Losses = (),
    step_separator: str = "\n",
    learning_rate: float = 1e-5,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Schedule = "linear",
) -> Plan:
    """Train a model whose head gives one number: a reward, outcome or process model.

    The rows' format decides the loss where none is named:
      prompt, chosen, rejected (margin, probability)
          bradley_terry, scored at the last token
      prompt, completions, rewards (or ranks)
          plackett_luce, scored at the last token
      prompt, completion, reward
          regression, scored at the last token (or any other loss: the completions of a prompt are
          then compared, or 0 and 1 are labels)
      prompt, completion, label
          outcome, scored at every token (losses: [binary]: at the last)
      prompt, completions, labels
          process, scored at the last token of each step
    The folder model/ loads with AutoModelForSequenceClassification where the last token is scored,
    else with AutoModelForTokenClassification. The head starts at 0.

    Args:
        data: rows in one of the formats above.
        eval_data: held-out rows; loss, accuracy and calibration are reported before, during and
            after training.
        losses: losses of scores, with weights; none takes that of the rows' format.
        step_separator: text between the steps of a completion.
        learning_rate: peak learning rate of the run.
        batch_size: rows per step.
        num_train_epochs: passes over the data, where the number of steps is not set.
        lr_scheduler_type: how the learning rate changes.
    """
    settings = dict(locals())
    train_data = data_of(data)
    items = components_of(losses)
    kind = _kind(train_data, items)
    items = items or [Component(DEFAULT_LOSS[kind])]
    _check(items, kind)
    inputs = {name for item in items for name in registry.losses.entry_of(item).inputs}
    every_token = kind == "labelled" and "labels" in inputs
    per: Literal["sequence", "token"] = "token" if every_token or kind == "process" else "sequence"
    roles = ("chosen", "rejected") if kind == "pairs" else ()
    objective = Objective(items, roles=roles, groups=kind == "listwise", carries=SCORES)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        account = Account()
        separate_padding(spec.tokenizer)  # as it will be saved
        options: dict[str, Any] = {
            "kind": kind,
            "every_token": every_token,
            "step_separator": step_separator,
            "account": account,
        }
        encoded = encode_scored(spec, train_data, **options)
        source = DataSource(encoded.trees, batch_size=batch_size, seed=seed, whole=objective.whole)
        number = steps_of(steps, num_train_epochs, source.steps_per_epoch)
        held_out_rows = _held_out(spec, eval_data, encoded, options)
        return Work(
            steps=number,
            source=lambda learner: source,
            facts=_facts(spec, encoded, objective, number, batch_size),
            account=account,
            preview=lambda console, num: preview(encoded, spec.tokenizer, console, num),
            measure=_measure(objective, held_out_rows),
        )

    return Plan(
        method="reward_model",
        settings=settings,
        objective=objective,
        prepare=prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        scores=per,
    )


def _held_out(
    spec: ModelSpec, eval_data: Rows | None, encoded: EncodedScores, options: dict[str, Any]
) -> EncodedScores | None:
    """The held-out rows, which must be of the kind of those that are trained on."""
    if eval_data is None:
        return None
    held_out_rows = encode_scored(spec, data_of(eval_data), key="eval_data", **options)
    if held_out_rows.kind != options["kind"]:
        raise ConfigError(
            f"eval_data: rows of format {held_out_rows.form.name}, but data are of format "
            f"{encoded.form.name}"
        )
    return held_out_rows


def _measure(objective: Objective, held_out_rows: EncodedScores | None) -> Measure | None:
    if held_out_rows is None:
        return None

    def measured(model: Any, source: Any, max_tokens: int) -> dict[str, float]:
        return _evaluated(model, objective, held_out_rows, max_tokens)

    return measured


def read_rows(data: DataConfig) -> list[dict[str, Any]]:
    """The rows that are scored."""
    if data.train_on != "auto":
        raise ConfigError(
            f"data.train_on: {data.train_on!r}; what is scored follows from the rows' format, so "
            "leave it out"
        )
    return training_data.read_rows(data)


def encode_scored(
    spec: ModelSpec,
    data: DataConfig,
    *,
    kind: Kind,
    account: Account,
    every_token: bool = False,
    step_separator: str = "\n",
    key: str = "data",
) -> EncodedScores:
    """Rows as sequences that are scored. kind: what rewarded rows are taken for."""
    if not step_separator:
        raise ConfigError(
            "step_separator: it is empty; name the text between steps, such as a line break"
        )
    examples = read_rows(data)
    if kind_of(detect_format(examples)) == "rewarded":
        examples = reshaped(examples, kind)
    encode = partial(encode_scores, every_token=every_token, separator=step_separator)
    context = spec.context_length("sequence_score")
    return training_data.encode_data(
        data, spec.tokenizer, context, encode, examples, account=account, key=key
    )


def _kind(data: DataConfig, losses: list[Component]) -> Kind:
    """The kind of the rows; of rewarded rows what the losses make of them."""
    kind = kind_of(detect_format(read_rows(data)))
    entries = [registry.losses.entry_of(item) for item in losses]
    inputs = {name for entry in entries for name in entry.inputs}
    if kind != "rewarded" or not losses:
        return kind
    if inputs & {"chosen_score", "rejected_score"}:
        return "pairs"
    if any(entry.per == "group" for entry in entries):
        return "listwise"
    return "labelled" if inputs & {"label", "labels"} else kind


def _check(components: list[Component], kind: Kind) -> None:
    for item in components:
        for name in registry.losses.entry_of(item).inputs:
            if name not in _ALWAYS | _CARRIED[kind]:
                raise ConfigError(
                    f"losses: {item.name!r} needs {name!r}, which a score model on these rows "
                    "does not have; the loss of such "
                    f"rows is {DEFAULT_LOSS[kind]!r}"
                )


def _evaluated(
    model: ScoreModel, objective: Objective, encoded: EncodedScores, max_tokens: int
) -> dict[str, float]:
    """Loss and everything else known of held-out rows, as "eval_NAME"."""
    batch = Batch([Tree.build(tree) for tree in encoded.trees], whole=objective.whole)
    loss = held_out(model, objective, batch, max_tokens)
    measured = measure(encoded.kind, encoded.trees, model.score(encoded.trees, max_tokens))
    return {**loss, **{f"eval_{name}": value for name, value in flat(measured).items()}}


def _facts(
    spec: ModelSpec, encoded: EncodedScores, objective: Objective, steps: int, batch_size: int
) -> Facts:
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
        ("losses", losses_text(objective)),
        *template_facts(spec.tokenizer),
        ("steps", steps_text(steps, batch_size, len(encoded.trees), "rows")),
    ]
