"""Labels of the steps of a solution, from what becomes of the solutions that go on from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from posttrain.engines.base import Engine
from posttrain.types import Example, Request, Sample, Sampling


@dataclass(slots=True)
class Solution:
    """A completion cut into steps.

    ids: of the completion. ends: index of each step's last token in them. right: what the task says
    of the whole.
    shares: step -> share of the continuations from its end that came out right; of the steps that
    were tried.
    """

    example: Example
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    ends: list[int]
    right: bool
    shares: dict[int, float] = field(default_factory=dict)

    def prefix(self, step: int) -> tuple[int, ...]:
        """Prompt and completion through the end of a step."""
        return (*self.prompt_ids, *self.ids[: self.ends[step] + 1])

    def labels(self, *, soft: bool = False) -> list[float]:
        """A label for each step: whether any continuation came out right, or (soft) the share of
        those that did.

        Where steps were left out by a binary search, those before the first wrong one are right and
        the others wrong.
        """
        if len(self.shares) == len(self.ends):
            return [
                self.shares[i] if soft else float(self.shares[i] > 0) for i in range(len(self.ends))
            ]
        first = min((i for i, share in self.shares.items() if share == 0), default=len(self.ends))
        return [float(i < first) for i in range(len(self.ends))]


class StepLabeller:
    """Continues solutions from the ends of their steps and keeps what became of it.

    Args:
        judge: (completion text, example) -> reward, 1 for a right one. decode: sample -> text.
        text_of: ids -> text.
        num_rollouts: continuations of a step. max_tokens: of a whole completion, as the sampling's.
    Attributes:
        num_tokens, num_samples: what all continuations have cost.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        judge: Callable[[str, Example], float],
        decode: Callable[[Sample], str],
        sampling: Sampling,
        num_rollouts: int,
        seed: int,
    ) -> None:
        self.engine, self.judge, self.decode = engine, judge, decode
        self.sampling, self.num_rollouts, self.seed = sampling, num_rollouts, seed
        self.num_tokens = self.num_samples = 0

    def every_step(self, solutions: Sequence[Solution]) -> None:
        """Math-Shepherd (arXiv 2312.08935): num_rollouts continuations from the end of every step
        but the last.

        The last step's share is that of the whole solution, 1 or 0: nothing is left to continue.
        """
        for solution in solutions:
            solution.shares[len(solution.ends) - 1] = float(solution.right)
        self._try([(s, i) for s in solutions for i in range(len(s.ends) - 1)])

    def first_wrong_step(self, solutions: Sequence[Solution]) -> None:
        """OmegaPRM's binary search (arXiv 2406.06592) for the first step from which no continuation
        comes out right.

        It takes for granted that what follows a wrong step stays wrong, and about log2(steps)
        rounds; the solutions of a round are continued side by side. A right solution is taken to
        have no wrong step.
        """
        bounds: list[
            tuple[Solution, int, int]
        ] = []  # steps below `low` are right, step `high` is wrong
        for solution in solutions:
            last = len(solution.ends) - 1
            solution.shares[last] = float(solution.right)
            if not solution.right:
                bounds.append((solution, 0, last))
        while bounds := [b for b in bounds if b[1] < b[2]]:
            self._try([(s, (low + high) // 2) for s, low, high in bounds])
            bounds = [
                (s, low, middle) if s.shares[middle] == 0 else (s, middle + 1, high)
                for s, low, high in bounds
                for middle in ((low + high) // 2,)
            ]

    def _try(self, places: Sequence[tuple[Solution, int]]) -> None:
        """Fill in the shares of some steps."""
        requests = []
        for solution, step in places:
            left = max(self.sampling.max_tokens - solution.ends[step] - 1, 1)
            sampling = replace(self.sampling, max_tokens=left)
            requests.append(
                Request(
                    solution.prefix(step),
                    sampling,
                    n=self.num_rollouts,
                    seed=self.seed,
                    reuse=False,
                )
            )
        for (solution, step), samples in zip(places, self.engine.generate(requests), strict=True):
            self.num_samples += len(samples)
            self.num_tokens += sum(len(s.ids) for s in samples)
            right = 0
            before = list(solution.ids[: solution.ends[step] + 1])
            for s in samples:
                whole = replace(s, ids=before + s.ids)
                right += self.judge(self.decode(whole), solution.example) >= 1.0
            solution.shares[step] = right / len(samples)
