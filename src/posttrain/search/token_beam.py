"""Beam search over tokens, in one group of beams or in several that keep apart."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Ids, Selection, select
from posttrain.search.token_paths import Decode, next_tokens, with_text, with_token
from posttrain.types import TopTokens


@searches.register
async def token_beam(
    prompt, ask, extract, decode, *, num_beams: int = 4, length_penalty: float = 1.0
) -> Selection:
    """Beam search with a length penalty (Wu et al., arXiv 1609.08144, in the form of Transformers).

        s(y) = log p(y | x) / |y|^length_penalty,    |y| in tokens, the end token included

    Every beam is continued by its K = num_beams likeliest tokens, and the K likeliest continuations
    that have not ended are the next beams; those among the first K that have ended compete by s. It
    is over once K have ended and no beam has a higher s at its present length. An ended candidate
    is chosen before one that was cut. One beam is greedy decoding. A beam costs one sampled token
    per step.

    num_beams: K. length_penalty: 0 compares log-probs, 1 log-probs per token, more prefers long
    candidates.
    """
    groups = _Groups(ask, decode, num_beams, 1, 0.0, length_penalty)
    return await groups.search(prompt, extract)


@searches.register
async def diverse_beam(
    prompt,
    ask,
    extract,
    decode,
    *,
    num_beams: int = 4,
    num_groups: int = 2,
    diversity_weight: float = 0.5,
    length_penalty: float = 1.0,
) -> Selection:
    """Diverse beam search (Vijayakumar et al., arXiv 1610.02424) with Hamming diversity.

        group g at place t:   log p(y_<t, v) - diversity_weight * #{beams of groups < g : y_t = v}

    The beams are divided into groups, which take a step one after the other; a token counts less
    for each beam of an earlier group that took it in the same place. The penalty chooses the beams
    of a step and is not carried on. The choice among all candidates is that of token_beam. With one
    group it is token_beam.

    num_groups: a divisor of num_beams.
    """
    if num_beams % max(num_groups, 1):
        raise ConfigError(
            f"diverse_beam: num_beams {num_beams} cannot be divided into {num_groups} groups of "
            "the same size"
        )
    groups = _Groups(ask, decode, num_beams, num_groups, diversity_weight, length_penalty)
    return await groups.search(prompt, extract)


@dataclass(slots=True)
class _Group:
    """beams: what is continued. ended: candidates that have ended, in the order in which they did.
    is_over: no beam is continued any more.
    """

    beams: list[Candidate]
    ended: list[Candidate] = field(default_factory=list)
    is_over: bool = False


class _Groups:
    """Groups of beams of one prompt. Lengths of all beams are equal at every step."""

    def __init__(
        self,
        ask,
        decode: Decode,
        num_beams: int,
        num_groups: int,
        diversity_weight: float,
        length_penalty: float,
    ) -> None:
        if num_beams < 1 or num_groups < 1:
            raise ConfigError(
                f"beam search: num_beams {num_beams} and num_groups {num_groups} must be at least 1"
            )
        self.ask, self.decode = ask, decode
        self.num_beams, self.num_groups = num_beams, num_groups
        self.size = num_beams // num_groups
        self.diversity_weight, self.length_penalty = diversity_weight, length_penalty

    async def search(self, prompt: Ids, extract) -> Selection:
        """The best candidate of all groups."""
        start = Candidate((), "", 0.0, False, context_ids=tuple(prompt))
        groups = [_Group([start]) for _ in range(self.num_groups)]
        for _ in range(self.ask.sampling.max_tokens):
            growing = [group for group in groups if not group.is_over]
            if not growing or self.ask.budget.is_spent:
                break
            tops = await self._tops(prompt, growing)
            if not all(tops.values()):  # the budget or the context ends here
                break
            taken: Counter[int] = Counter()
            for group in growing:
                taken.update(self._advance(group, tops, taken))
        pool = [path for group in groups for path in self._best(group)]
        pool = [with_text(path, self.decode) for path in pool]
        best = max(range(len(pool)), key=lambda i: self._rank(pool[i]))
        return select(pool, best, extract, num_ended=float(sum(path.ended for path in pool)))

    async def _tops(self, prompt: Ids, groups: list[_Group]) -> Mapping[Ids, TopTokens]:
        """The likeliest next tokens of all beams, those of equal beams once.

        num_beams of them suffice: earlier groups have taken num_beams - size tokens at most, so
        that the first `size` after the penalty are among them.
        """
        paths = list(dict.fromkeys(path.ids for group in groups for path in group.beams))
        contexts = [(*prompt, *ids) for ids in paths]
        tops = await asyncio.gather(*(next_tokens(self.ask, c, self.num_beams) for c in contexts))
        return dict(zip(paths, tops, strict=True))

    def _advance(
        self, group: _Group, tops: Mapping[Ids, TopTokens], taken: Mapping[int, int]
    ) -> list[int]:
        """Let a group take a step; the tokens that it took.

        taken: how often earlier groups took each token in this step.
        """
        options = [
            (
                path.logprob + logprob - self.diversity_weight * taken.get(token, 0),
                -place,
                -token,
                logprob,
            )
            for place, path in enumerate(group.beams)
            for token, logprob in tops[path.ids]
        ]
        beams: list[Candidate] = []
        tokens = []
        for rank, (_, place, token, logprob) in enumerate(sorted(options, reverse=True)):
            path = group.beams[-place]
            grown = with_token(path, -token, tops[path.ids], logprob, self.ask, self.decode)
            if grown.ended and rank >= self.size:
                continue
            tokens.append(-token)
            (group.ended if grown.ended else beams).append(grown)
            if len(beams) == self.size:
                break
        group.beams = beams
        group.is_over = self._is_over(group)
        return tokens

    def _is_over(self, group: _Group) -> bool:
        if not group.beams:
            return True
        scores = sorted((self._score(path) for path in group.ended), reverse=True)
        if len(scores) < self.size:
            return False
        return scores[self.size - 1] >= max(self._score(path) for path in group.beams)

    def _best(self, group: _Group) -> list[Candidate]:
        return sorted([*group.ended, *group.beams], key=self._rank, reverse=True)[: self.size]

    def _rank(self, path: Candidate) -> tuple[bool, float]:
        return path.ended, self._score(path)

    def _score(self, path: Candidate) -> float:
        return path.logprob / max(len(path.ids), 1) ** self.length_penalty
