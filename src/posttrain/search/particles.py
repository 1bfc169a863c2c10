"""Particle filtering over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Ids, Selection
from posttrain.search.scores import number_of, softmax
from posttrain.search.steps import Steps, at_least

_EDGE = 1e-6  # smallest distance of a probability from 0 and 1, so that its logit is finite


@searches.register
async def particle_filter(
    prompt,
    ask,
    extract,
    score,
    decode,
    *,
    num_particles: int = 8,
    resampling: Literal["systematic", "multinomial"] = "systematic",
    weight: Literal["logit", "score"] = "logit",
    softmax_temperature: float = 1.0,
    entropic: bool = False,
    separator: str = "\n",
    max_steps: int = 40,
    choose: Literal["best", "vote", "weighted_vote"] = "best",
) -> Selection:
    """Particle filtering (Puri et al., arXiv 2502.01618).

        repeat until all N particles are whole:
            every open particle goes on by a step
            p = softmax(w / T), w = logit(score) of each particle, whole ones among them
            N particles are drawn from p

    Whole particles stay in the pool: they are drawn, and copied, with their weight. Particles of
    equal weight are left as they are, so that a scorer that knows nothing gives N independent
    samples.

    With `entropic`, T = max(1, (N / ESS)(1 - t)) while ESS / N < 1/2 and t < 1/2, for ESS = 1 /
    sum p^2 and t the share of max_steps that is over: early on, no particle takes over the pool.

    num_particles: N. resampling: systematic has the smaller variance. weight: logit of a score that
    is a probability, or the score itself. softmax_temperature: T. separator: text that ends a step.
    max_steps: the last step runs to the end. choose: the best score, or a vote of the particles.
    """
    at_least("particle_filter", num_particles=num_particles)
    if not softmax_temperature > 0:
        raise ConfigError(
            f"particle_filter: softmax_temperature is {softmax_temperature}; it must be above 0"
        )
    steps = Steps("particle_filter", prompt, ask, decode, separator, max_steps)
    particles, origins = [steps.root] * num_particles, list(range(num_particles))
    replaced, smallest, step = 0, float(num_particles), 0
    while True:
        particles = await _moved(steps, particles, score)
        step += 1
        if all(map(steps.is_done, particles)) or ask.budget.is_spent:
            break
        weights = [_weight(number_of(path), weight) for path in particles]
        p = softmax([w / softmax_temperature for w in weights])
        smallest = min(smallest, effective_size(p))
        if entropic:
            t = entropic_temperature(effective_size(p), num_particles, step / max_steps)
            p = softmax([w / (softmax_temperature * t) for w in weights])
        picks = resampled(p, resampling, ask.random)
        replaced += num_particles - len(set(picks))
        particles = [particles[i] for i in picks]
        origins = [origins[i] for i in picks]
    return steps.chosen(
        particles,
        extract,
        choose,
        num_replaced=replaced,
        num_ancestors=len(set(origins)),
        min_effective_size=smallest,
    )


async def _moved(steps: Steps, particles: list[Candidate], score) -> list[Candidate]:
    """Open particles with a step more and its score; copies of one path are one call."""
    places: dict[Ids, list[int]] = {}
    for i, path in enumerate(particles):
        if not steps.is_done(path):
            places.setdefault(path.ids, []).append(i)
    copies = list(places.values())
    groups = await steps.grown([particles[c[0]] for c in copies], list(map(len, copies)))
    moved = await steps.scored([path for group in groups for path in group], score)
    particles = list(particles)
    for i, path in zip([i for c in copies for i in c], moved, strict=True):
        particles[i] = path
    return particles


def _weight(score: float, kind: str) -> float:
    """The log-weight of a score."""
    if kind == "score" or score == -math.inf:
        return score
    if not 0 <= score <= 1:
        raise ConfigError(
            f"particle_filter: the scorer gave {score:g}, which is no probability; take a scorer "
            "of probabilities, or set weight: score"
        )
    score = min(max(score, _EDGE), 1 - _EDGE)
    return math.log(score / (1 - score))


def effective_size(p: Sequence[float]) -> float:
    """ESS = 1 / sum p^2: particles that count, from 1 to N."""
    return 1 / sum(x * x for x in p)


def entropic_temperature(size: float, num_particles: int, progress: float) -> float:
    """The temperature of entropic particle filtering.

    size: ESS. progress: share of the steps that is over.
    """
    ratio = size / num_particles
    if ratio >= 0.5 or progress >= 0.5:
        return 1.0
    return max(1.0, (1 - progress) / ratio)


def resampled(p: Sequence[float], kind: str, random: Random) -> list[int]:
    """Places of as many particles as there are probabilities, drawn in proportion to them.

    kind: "multinomial" draws each alone; "systematic" takes equally spaced points with one random
    offset, so that a particle of probability p has floor(N p) or ceil(N p) copies. Equal
    probabilities keep every particle.
    """
    number = len(p)
    if max(p) - min(p) < 1e-12:
        return list(range(number))
    if kind == "multinomial":
        return sorted(random.choices(range(number), weights=p, k=number))
    offset, places, total, place = random.random(), [], p[0], 0
    for point in range(number):
        while total < (point + offset) / number and place < number - 1:
            place += 1
            total += p[place]
        places.append(place)
    return places
