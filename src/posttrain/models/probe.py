"""The comparison of a small forest with plain forward passes, when a model is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.kernels.agreement import bound_of, relative_error
from posttrain.models.program import cuda_devices, evaluating


def disagreement(model: Any) -> str | None:
    """Why a small forest does not agree with plain forward passes, or None where it does."""
    config = model.config
    layer_types = set(getattr(config, "layer_types", None) or [])
    if foreign := layer_types - {"full_attention", "sliding_attention"}:
        return f"it has {min(foreign)} layers"
    window = getattr(config, "sliding_window", None)
    trunk = 6 if window is None or window > 64 else window + 3
    limit = model.context_length or 1 << 30
    forest, sequences = _probe_forest(config.vocab_size, min(trunk, max(2, limit - 8)))
    forest = forest.to(model.device)
    with evaluating(model.hf), torch.no_grad(), torch.random.fork_rng(cuda_devices(model.device)):
        together, plan = model._shared_hidden(forest)
        alone = torch.cat([model._row_hidden(s.to(model.device)[None])[0] for s in sequences])
    paths = torch.cat([torch.nonzero(forest.ends[: int(x) + 1] > x)[:, 0] for x in forest.last])
    if (others := config.num_hidden_layers - len(plan.layers)) > 0:
        return f"{others} of its layers do not attend through transformers' attention interface"
    if window is not None and "sliding_attention" in layer_types and not plan.windows:
        return "its sliding windows lie in a mask that a forest cannot carry"
    worst, bound = relative_error(together[paths], alone), bound_of(together.dtype)
    if not worst <= bound:
        return f"a small forest differs from plain forwards by {worst:.1e} (bound {bound:.0e})"
    return None


def _probe_forest(vocab_size: int, trunk: int) -> tuple[Forest, list[torch.Tensor]]:
    """A trunk with three leaves and a branch below one of them, of arbitrary valid ids; no
    random state is touched.
    """
    draw = np.random.default_rng(0)

    def some(count: int) -> list[int]:
        return draw.integers(0, vocab_size, count).tolist()

    stem, fork = some(trunk), some(3)
    lists = [stem + some(4), stem + some(2), stem + fork + some(2), stem + fork + some(1)]
    sequences = [TokenSequence(np.array(ids), np.arange(len(ids)) > 0) for ids in lists]
    other = TokenSequence(np.array(some(5)), np.arange(5) > 0)
    forest = Forest.pack([Tree.build([other], min_shared=1), Tree.build(sequences, min_shared=1)])
    return forest, [torch.tensor(other.ids), *(torch.tensor(ids) for ids in lists)]
