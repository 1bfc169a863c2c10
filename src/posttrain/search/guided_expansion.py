"""A tree of steps that grows where the model is sure of itself."""

from __future__ import annotations

import math

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection
from posttrain.search.scores import best_paths
from posttrain.search.steps import Steps, at_least, distinct_texts


@searches.register
async def guided_expansion(
    prompt,
    ask,
    extract,
    decode,
    *,
    num_samples: int = 4,
    num_children: int = 2,
    num_expansions: int = 40,
    min_confidence: float = 0.0,
    separator: str = "\n",
    max_steps: int = 20,
) -> Selection:
    """Tree search by confidence: guided expansion, confidence selection and abstention (Wilson,
    arXiv 2410.19117). Best first, and without a scorer.

        c(path) = exp(mean log-prob of its tokens), from 0 to 1
        repeat: expand the open path of highest c by num_children sampled steps, of equal texts one
        until num_samples paths are whole, or num_expansions expansions
        answer: the whole path of highest c; none where c < min_confidence

    The tree goes back to an earlier path wherever a step has made a later one less sure. A search
    without a whole path completes its best one. With one sample and one child it is one sample.
    Notes: num_expansions; confidence, that of the choice.

    num_samples: whole paths. num_children: steps per expansion. num_expansions: at most.
    min_confidence: the search abstains below; 0 never does. separator: text that ends a step.
    max_steps: the last step runs to the end.
    """
    at_least("guided_expansion", num_samples=num_samples, num_children=num_children)
    at_least("guided_expansion", num_expansions=num_expansions)
    if not 0 <= min_confidence <= 1:
        raise ConfigError(
            f"guided_expansion: min_confidence is {min_confidence}; it must be from 0 to 1"
        )
    steps = Steps("guided_expansion", prompt, ask, decode, separator, max_steps)
    open_paths, done, expansions = [steps.root], list[Candidate](), 0
    while open_paths and len(done) < num_samples and expansions < num_expansions:
        if expansions and ask.budget.is_spent:
            break
        (path,) = best_paths(open_paths, 1)
        children = distinct_texts(await steps.continued(path, num_children))
        children = [child.scored(confidence(child)) for child in children]
        open_paths = [other for other in open_paths if other is not path]
        open_paths += [child for child in children if not steps.is_done(child)]
        done += [child for child in children if steps.is_done(child)]
        expansions += 1
    if not any(map(steps.is_ended, done)) and open_paths and not ask.budget.is_spent:
        (path,) = best_paths(open_paths, 1)
        (whole,) = await steps.continued(path, whole=True)
        done.append(whole.scored(confidence(whole)))
    selection = steps.chosen(done or open_paths, extract, "best", num_expansions=expansions)
    number = confidence(selection.candidates[selection.index])
    selection.notes["confidence"] = number
    selection.abstained = number < min_confidence
    return selection


def confidence(path: Candidate) -> float:
    """exp of the mean log-prob per token; 0 without tokens."""
    return math.exp(path.mean_logprob)
