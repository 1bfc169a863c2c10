"""Losses of classifiers.

Inputs: `class_logits` [M, C], logits at each target, and `class_index` [S], the class of each text.
A text's logits are the mean over its targets: of one target they are its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.losses.inputs import Metrics
from posttrain.registry import losses


@losses.register(per="sequence")
def class_cross_entropy(
    class_logits: Tensor,
    class_index: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """The cross-entropy of a class, with z the mean of class_logits over the targets of a text.

    l = -(1 - e) log softmax(z)_y - e mean_c log softmax(z)_c

    e = label_smoothing. Of C classes that are equally likely l = log C.
    """
    logits = class_means(class_logits, sequence, num_sequences)
    place = class_index.long()
    log_p = logits.log_softmax(-1)
    own = log_p.gather(1, place[:, None])[:, 0]
    value = -(1 - label_smoothing) * own - label_smoothing * log_p.mean(-1)
    right = (logits.detach().argmax(-1) == place).to(logits.dtype)
    return value, {"accuracy": right}


def class_means(rows: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
    """The mean over the targets of each sequence. rows [M, D], sequence [M] -> [S, D]."""
    counts = torch.bincount(sequence, minlength=num_sequences).clamp(min=1)
    sums = rows.new_zeros(num_sequences, rows.shape[1]).index_add(0, sequence, rows)
    return sums / counts[:, None].to(rows.dtype)
