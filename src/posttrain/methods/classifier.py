"""Text classification: a class for each text, by a language model's trunk with a class head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.data.account import Account
from posttrain.data.forest import Batch, Tree
from posttrain.data.labelled_texts import labelled_sequences, labels_of
from posttrain.data.rows import rows_of
from posttrain.data.training_data import limits_of, steps_text
from posttrain.errors import DataError
from posttrain.inputs import CLASSES
from posttrain.methods.comparisons import losses_text
from posttrain.methods.objects import Losses, Rows, components_of, data_of
from posttrain.models.class_head import Classes, Pooling
from posttrain.models.classifier import Classifier
from posttrain.models.load import separate_padding
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.rows import DataSource, Singles
from posttrain.training.objective import Objective, held_out
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Plan, Work, steps_of


@methods.register(trains="scores")
def classifier(
    data: Rows,
    *,
    labels: list[str] | None = None,
    eval_data: Rows | None = None,
    losses: Losses = ("class_cross_entropy",),
    pooling: Pooling = "mean",
    dropout: float = 0.1,
    learning_rate: float = 1e-4,
    batch_size: int = 16,
    num_train_epochs: float = 3.0,
    lr_scheduler_type: Schedule = "linear",
) -> Plan:
    """Train a text classifier on rows of text and label.

    The trunk of a language model reads a text; a head gives a logit per class, at first 0. The
    result's model predicts: model.predict(texts) has probabilities and embeddings,
    model.committee(texts) the probabilities of members under dropout.

    Args:
        data: rows of text and label.
        labels: names of the classes; None are those of the rows, sorted. A pool of active learning
            names them, as its first rows may lack one.
        eval_data: held-out rows; loss and accuracy are reported before, during and after training.
        losses: losses of classes, with weights.
        pooling: a text's logits are the "mean" over its tokens, or those of the "last" token, as
            `AutoModelForSequenceClassification` reads them.
        dropout: share of hidden numbers that the head does not see in training.
        learning_rate: peak learning rate of the run.
        batch_size: rows per step.
        num_train_epochs: passes over the data, where the number of steps is not set.
        lr_scheduler_type: how the learning rate changes.
    """
    settings = dict(locals())
    train_data = data_of(data)
    rows = rows_of(train_data)
    classes = Classes(tuple(labels or labels_of(rows)), pooling, dropout)
    objective = Objective(components_of(losses), carries=CLASSES)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        account = Account()
        separate_padding(spec.tokenizer)  # as it will be saved
        limit = limits_of(train_data, spec.context_length("classes")).max_length
        common = spec.tokenizer, classes.labels, pooling, limit
        sequences, num_cut = labelled_sequences(rows, *common)
        source = DataSource(Singles(sequences), batch_size=batch_size, seed=seed)
        number = steps_of(steps, num_train_epochs, source.steps_per_epoch)
        measure = None
        if eval_data is not None:
            held = labelled_sequences(rows_of(data_of(eval_data)), *common, key="eval_data")[0]
            if not held:
                raise DataError("eval_data: there are no rows; leave it out")
            batch = Batch([Tree.build([s]) for s in held])

            def measure(model: Any, source: Any, max_tokens: int) -> dict[str, float]:
                return held_out(model, objective, batch, max_tokens)

        return Work(
            steps=number,
            source=lambda learner: source,
            facts=[
                ("classes", f"{len(classes.labels)}: {', '.join(classes.labels)}"),
                ("rows", f"{len(sequences)}, {num_cut} cut at {limit} tokens"),
                ("losses", losses_text(objective)),
                ("steps", steps_text(number, batch_size, len(sequences), "rows")),
            ],
            account=account,
            measure=measure,
        )

    return Plan(
        method="classifier",
        settings=settings,
        objective=objective,
        prepare=prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        scores=classes,
    )


def accuracy(
    model: Classifier, rows: Sequence[Mapping[str, Any]], *, max_length: int | None = None
) -> list[float]:
    """1 for each row of text and label whose class the model predicts, else 0.

    Args:
        max_length: tokens that are read of a text; None is the model's context, at most 1024.
    """
    predicted = model.predict([row["text"] for row in rows], max_length=max_length).predicted
    return [float(p == str(row["label"])) for p, row in zip(predicted, rows, strict=True)]
