"""Whether a server has the trainer's weights: log-probs of a few tokens, compared after an update.

A status of 200 proves nothing, and neither do checksums: vLLM 0.32 on a CPU answers both while a
tied projection stays as it was, and its checksums of packed layers are those of empty tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from posttrain.engines.base import Agreement, Engine, Score, agreement
from posttrain.errors import WeightSyncError
from posttrain.types import Request, Sample, Sampling

_NUM_PROMPTS, _PROMPT_TOKENS, _MAX_TOKENS = 4, 8, 16
BOUNDS = {"float32": 1e-4, "float64": 1e-4}
OTHER_BOUND = 0.05
"""Largest mean differences in nats, by the dtype of the weights."""


class SyncProbe:
    """Compares what servers sample with what the trainer computes of it.

    Prompts are random ids, so that the probe reads embeddings of tokens that the rollouts never
    show. What was compared last is remembered: a server that comes back later is compared with it
    without the trainer's model, which may have moved on.

    Args:
        score: of the trainer. max_gap: largest mean difference in nats. vocab_size: V.
    """

    def __init__(self, score: Score, *, max_gap: float, vocab_size: int, seed: int = 0) -> None:
        self.score, self.max_gap = score, max_gap
        self.vocab_size, self.seed = vocab_size, seed
        self.version: int | None = None  # that was compared last
        self._compared: list[tuple[Sequence[int], int]] = []
        self._scores: list[list[float]] = []

    def compare(self, engine: Engine, version: int) -> Agreement:
        """Sample a little and compare.

        Raises:
            WeightSyncError: the log-probs differ by more than the bound, or the server says that
            it sampled with another version.
        """
        prompts = self._prompts(version)
        sampling = Sampling(max_tokens=_MAX_TOKENS)
        requests = [Request(prompt, sampling, reuse=False) for prompt in prompts]
        samples = [group[0] for group in engine.generate(requests)]
        self._check_versions(samples, version)
        pairs = [(prompt, s) for prompt, s in zip(prompts, samples, strict=True) if s.ids]
        result = agreement(pairs, self.score)
        self._check(result, version)
        self._compared = [((*prompt, *s.ids), len(prompt)) for prompt, s in pairs]
        self._scores, self.version = self.score(self._compared), version
        return result

    def compare_again(self, engine: Engine, version: int) -> Agreement:
        """Compare the scores of a server with those that the trainer gave after the last update.

        Raises:
            WeightSyncError: they differ by more than the bound.
        """
        scores = engine.score(self._compared)
        gaps = [
            abs(a - b)
            for ours, theirs in zip(self._scores, scores, strict=True)
            for a, b in zip(ours, theirs, strict=True)
        ]
        worst = math.nan if any(math.isnan(gap) for gap in gaps) else max(gaps, default=0.0)
        mean = math.fsum(gaps) / len(gaps) if gaps else 0.0
        result = Agreement(worst, mean, len(gaps))
        self._check(result, version)
        return result

    def _prompts(self, version: int) -> list[tuple[int, ...]]:
        ids = np.random.default_rng((self.seed, version)).integers(
            0, self.vocab_size, size=(_NUM_PROMPTS, _PROMPT_TOKENS)
        )
        return [tuple(row) for row in ids.tolist()]

    def _check_versions(self, samples: Sequence[Sample], version: int) -> None:
        found = {span.version for sample in samples for span in sample.spans}
        if found != {version}:
            raise WeightSyncError(
                f"weights {version} were sent and the server sampled with {sorted(found)}; let one "
                "run alone update it"
            )

    def _check(self, result: Agreement, version: int) -> None:
        if result.mean_gap <= self.max_gap and not math.isnan(result.max_gap):
            return
        raise WeightSyncError(
            f"after the update to weights {version}, log-probs of server and trainer differ by "
            f"{result.mean_gap:.3g} nats on average and {result.max_gap:.3g} at most over "
            f"{result.num_tokens} tokens; {self.max_gap:g} on average is allowed. The server has "
            "other weights (a tied projection that stayed as it was, an update that did nothing) "
            "or computes in another precision: let engine.launch start it, give both the same "
            "dtype, or raise engine.max_logprob_gap",
            gap=result.mean_gap,
            bound=self.max_gap,
        )
