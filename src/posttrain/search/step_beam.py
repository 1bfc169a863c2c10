"""Beams of steps under a scorer: one pool of beams, or independent trees."""

from __future__ import annotations

from typing import Literal

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection
from posttrain.search.scores import best_paths, best_place
from posttrain.search.steps import Steps, at_least, distinct_texts, shares


@searches.register
async def step_beam(
    prompt,
    ask,
    extract,
    score,
    decode,
    *,
    num_beams: int = 8,
    beam_width: int = 4,
    lookahead: int = 0,
    separator: str = "\n",
    max_steps: int = 40,
    choose: Literal["best", "vote", "weighted_vote"] = "best",
) -> Selection:
    """Step beam search with a process scorer (Snell et al., arXiv 2408.03314).

        paths = N samples of the first step
        repeat: score the paths, of equal texts the first; set whole ones aside
                keep the best ceil(K / M) of the others, K = N - the number set aside
                continue them K times in all
        answer: the best of those set aside

    Never more than N paths are completed, and each level samples as many as are still missing. With
    `lookahead` a path is scored k greedy steps later, and kept without them.

    num_beams: N paths. beam_width: M continuations of a path. lookahead: k. separator: text that
    ends a step. max_steps: the last step runs to the end. choose: the best score, or a vote of the
    completed paths, each or by its score.
    """
    at_least("step_beam", 0, lookahead=lookahead)
    width = _width("step_beam", num_beams, beam_width)
    steps = Steps("step_beam", prompt, ask, decode, separator, max_steps)
    beams, duplicates = [steps.root], 0
    aside: list[Candidate] = []
    while beams and len(aside) < num_beams and not (beams[0].steps and ask.budget.is_spent):
        groups = await steps.grown(beams, shares(num_beams - len(aside), len(beams)))
        paths = [path for group in groups for path in group]
        unique = distinct_texts(paths)
        duplicates += len(paths) - len(unique)
        unique = await steps.scored(unique, score, lookahead)
        aside += [path for path in unique if steps.is_done(path)]
        missing = num_beams - len(aside)
        going = [path for path in unique if not steps.is_done(path)]
        beams = best_paths(going, -(-missing // width))
    return steps.chosen([*aside, *beams], extract, choose, num_duplicates=duplicates)


@searches.register
async def dvts(
    prompt,
    ask,
    extract,
    score,
    decode,
    *,
    num_beams: int = 8,
    beam_width: int = 4,
    lookahead: int = 0,
    separator: str = "\n",
    max_steps: int = 40,
    choose: Literal["best", "vote", "weighted_vote"] = "best",
) -> Selection:
    """Diverse verifier tree search: N / M independent greedy trees (Beeching et al., Scaling
    test-time compute with open models, 2024).

        each tree: sample M continuations of its path, keep the best one, until that is whole
        answer: the best of the last continuations of all trees

    A strong early path cannot take over all beams. With one tree it is step_beam with one beam.

    num_beams: N, a multiple of beam_width. beam_width: M continuations. lookahead, separator,
    max_steps, choose: as of step_beam.
    """
    at_least("dvts", 0, lookahead=lookahead)
    width = _width("dvts", num_beams, beam_width)
    steps = Steps("dvts", prompt, ask, decode, separator, max_steps)
    (first,) = await steps.grown([steps.root], [num_beams])
    first = await steps.scored(first, score, lookahead)
    trees = [first[i : i + width] for i in range(0, num_beams, width)]
    while not ask.budget.is_spent:
        best = [tree[best_place(tree)] for tree in trees]
        open_trees = [i for i, path in enumerate(best) if not steps.is_done(path)]
        if not open_trees:
            break
        groups = await steps.grown([best[i] for i in open_trees], [width] * len(open_trees))
        paths = await steps.scored([p for group in groups for p in group], score, lookahead)
        for place, i in enumerate(open_trees):
            trees[i] = paths[place * width : (place + 1) * width]
    return steps.chosen(
        [path for tree in trees for path in tree], extract, choose, num_trees=len(trees)
    )


def _width(search: str, num_beams: int, beam_width: int) -> int:
    """Continuations of a path; one beam has one.

    Raises:
        ConfigError: a number below 1, or beams that are no multiple of the width.
    """
    at_least(search, num_beams=num_beams, beam_width=beam_width)
    width = min(beam_width, num_beams)
    if num_beams % width:
        raise ConfigError(
            f"{search}: num_beams {num_beams} must be a multiple of beam_width {beam_width}"
        )
    return width
