"""Step-wise beam search that a critic guides."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Ids, Selection


@dataclass(slots=True)
class _Path:
    """An unfinished completion. ended: by itself; done: that, or at the length limit."""

    ids: Ids
    logprob: float
    ended: bool
    done: bool
    value: float = 0.0


@searches.register
def value_beam(
    prompts,
    generate,
    extract,
    value,
    decode,
    *,
    num_beams: int = 4,
    separator: str = "\n",
    max_rounds: int = 20,
) -> list[Selection]:
    """Value-guided step beam search (OREO, arXiv 2412.16145): needs a critic, as method offline
    trains one.

    Each of num_beams = K beams is continued K times up to the separator (a first line K * K times);
    the K paths with the highest value V are kept, finished ones among them; after max_rounds steps,
    or once all K are finished, the one with the highest value is chosen, finished before
    unfinished. Equal paths count once. V is taken of the last state in which a token was chosen: of
    a finished path before its end token, because behind that there is no state.
    """
    if num_beams < 1 or max_rounds < 1 or not separator:
        raise ConfigError(
            f"value_beam: num_beams {num_beams} and max_rounds {max_rounds} must be at least 1, "
            f"and separator {separator!r} "
            "not empty"
        )
    beams = [[_Path((), 0.0, False, False)] for _ in prompts]
    spent = [0] * len(prompts)
    for depth in range(max_rounds):
        open_paths = [(i, path) for i, pool in enumerate(beams) for path in pool if not path.done]
        if not open_paths:
            break
        grown: list[list[_Path]] = [[path for path in pool if path.done] for pool in beams]
        groups = generate(
            [(*prompts[i], *path.ids) for i, path in open_paths],
            num_beams if depth else num_beams**2,
            stop=(separator,),
            max_tokens=[generate.sampling.max_tokens - len(path.ids) for _, path in open_paths],
        )
        for (i, path), group in zip(open_paths, groups, strict=True):
            spent[i] += sum(len(c.ids) for c in group)
            grown[i] += [_grown(path, c, generate.sampling.max_tokens) for c in group]
        beams = _best(prompts, grown, value, num_beams)
    return [
        _selection(pool, extract, decode, tokens) for pool, tokens in zip(beams, spent, strict=True)
    ]


def _grown(path: _Path, step: Candidate, max_tokens: int) -> _Path:
    ids = (*path.ids, *step.ids)
    at_separator = step.stop_string is not None
    return _Path(
        ids,
        path.logprob + step.logprob,
        step.ended and not at_separator,
        not at_separator or len(ids) >= max_tokens,
    )


def _best(prompts: list[Ids], pools: list[list[_Path]], value, num_beams: int) -> list[list[_Path]]:
    """The paths of each prompt with the highest values, equal ones once."""
    distinct = [list({p.ids: p for p in pool}.values()) for pool in pools]
    fresh = [
        (prompt, path) for prompt, pool in zip(prompts, distinct, strict=True) for path in pool
    ]
    states = [(*prompt, *(path.ids[:-1] if path.ended else path.ids)) for prompt, path in fresh]
    for (_, path), number in zip(fresh, value(states), strict=True):
        path.value = number
    return [sorted(pool, key=lambda p: -p.value)[:num_beams] for pool in distinct]


def _selection(pool: list[_Path], extract, decode, num_tokens: int) -> Selection:
    candidates = [Candidate(p.ids, decode(p.ids), p.logprob, p.ended) for p in pool]
    best = max(range(len(pool)), key=lambda i: (pool[i].ended, pool[i].value))
    text = candidates[best].text
    return Selection(text, extract(text), best, candidates, num_tokens)
