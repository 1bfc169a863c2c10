"""What a classification head gives: the names of its classes, and what of a text it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from posttrain.errors import ConfigError

Pooling = Literal["mean", "last"]
"""A text's logits are the mean over its tokens, or those of its last token."""


@dataclass(frozen=True, slots=True)
class Classes:
    """The head of a classifier.

    Attributes:
        labels: names of the classes, in the order of the head's rows.
        pooling: "mean" is of all tokens but the first, which nothing stands before; "last" is the
            rule of `AutoModelForSequenceClassification`.
        dropout: share of the hidden numbers that the head does not see in training, and in a
            committee.
    """

    labels: tuple[str, ...]
    pooling: Pooling = "mean"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ConfigError(
                f"labels: {list(self.labels)} must be at least 2 different classes; name those "
                "that the rows have"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"dropout: {self.dropout} is a share; it must be from 0 to below 1, .1 is usual"
            )

    def write(self, config: Any) -> None:
        """Into a model's configuration, so that a saved classifier is loaded as it was."""
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {label: place for place, label in enumerate(self.labels)}
        config.pooling, config.head_dropout = self.pooling, self.dropout

    @classmethod
    def read(cls, config: Any) -> Classes:
        """From a model's configuration; one that was trained elsewhere reads the last token."""
        labels = tuple(str(config.id2label[place]) for place in range(config.num_labels))
        return cls(labels, getattr(config, "pooling", "last"), getattr(config, "head_dropout", 0.0))
