"""Adaptive branching: another answer, or a better form of one that is there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection, select
from posttrain.search.dialogue import check_template, filled, question_of, rewritten
from posttrain.search.scores import best_place, number_of
from posttrain.search.steps import at_least

Prior = Literal["beta", "gaussian"]


@dataclass(slots=True)
class Posterior:
    """What is believed of the scores of an arm.

    beta: scores from 0 to 1; Beta(1/2 + sum r, 1/2 + sum (1 - r)).
    gaussian: normal-inverse-chi-squared with m = 0, kappa = 1, nu = 1, tau^2 = 0.1 before any
    score; a draw is of the mean.
    """

    prior: Prior
    scores: list[float] = field(default_factory=list)

    def draw(self, random: Random) -> float:
        """A number that the arm may be worth."""
        total, number = sum(self.scores), len(self.scores)
        if self.prior == "beta":
            return random.betavariate(0.5 + total, 0.5 + number - total)
        mean, nu, tau_square = self.gaussian()
        variance = nu * tau_square / random.gammavariate(nu / 2, 2.0)
        return random.gauss(mean, math.sqrt(variance / (1 + number)))

    def gaussian(self) -> tuple[float, float, float]:
        """m, nu and tau^2 of the posterior; its kappa is 1 + the number of scores."""
        number = len(self.scores)
        average = sum(self.scores) / max(number, 1)
        spread = sum((x - average) ** 2 for x in self.scores)
        spread += number * average**2 / (1 + number)
        return number * average / (1 + number), 1.0 + number, (0.1 + spread) / (1 + number)


@dataclass(slots=True, eq=False)
class Answer:
    """A node of the tree: an answer, or the root, which has none.

    wider: scores of new answers from here. deeper: scores of all answers below its children.
    worth: scores of all answers below this one.
    """

    candidate: Candidate | None
    parent: Answer | None
    wider: Posterior
    deeper: Posterior
    worth: Posterior
    children: list[Answer] = field(default_factory=list)

    @classmethod
    def new(cls, candidate: Candidate | None, parent: Answer | None, prior: Prior) -> Answer:
        """An answer without children."""
        return cls(candidate, parent, Posterior(prior), Posterior(prior), Posterior(prior))

    def added(self, candidate: Candidate, prior: Prior, score: float) -> Answer:
        """A new answer from here, whose score counts in all that led to it."""
        child = Answer.new(candidate, self, prior)
        self.children.append(child)
        self.wider.scores.append(score)
        node = self
        while node.parent is not None:
            node.parent.deeper.scores.append(score)
            node.worth.scores.append(score)
            node = node.parent
        return child

    def selected(self, random: Random) -> Answer:
        """The node from which the next answer is written: here, or below by Thompson sampling."""
        node = self
        while node.children and node.deeper.draw(random) > node.wider.draw(random):
            draws = [child.worth.draw(random) for child in node.children]
            node = node.children[draws.index(max(draws))]
        return node

    @property
    def depth(self) -> int:
        """Answers on the way to this one, itself included."""
        return 0 if self.parent is None else 1 + self.parent.depth


@searches.register
async def ab_mcts(
    prompt,
    ask,
    extract,
    score,
    problem,
    render,
    *,
    num_samples: int = 16,
    prior: Literal["beta", "gaussian"] = "gaussian",
    refinement: str = (
        "{problem}\n\nAn answer:\n{answer}\n\nFind its mistakes and write a better answer.\n"
    ),
) -> Selection:
    """AB-MCTS-A, adaptive branching tree search (Inoue et al., arXiv 2503.04412).

        repeat num_samples times, from the root:
            draw from the posterior of a new answer (wider) and of those below (deeper)
            wider: sample an answer here: to the problem at the root, else a refinement
            deeper: go to the child with the highest draw from its posterior, and draw again
            add the score to the posteriors on the way up
        answer: the one with the highest score

    A score of a new answer counts as wider where it was written, and as deeper in all nodes above.
    No score (-inf) counts as 0. The first sample is the one that a search without it takes.

    prior: beta takes scores from 0 to 1; gaussian takes any. refinement: the prompt of a refined
    answer, with {problem} and {answer}.
    """
    at_least("ab_mcts", num_samples=num_samples)
    check_template("ab_mcts.refinement", refinement, ("answer",))
    question = question_of(problem)
    root, deepest = Answer.new(None, None, prior), 1
    answers: list[Candidate] = []
    while len(answers) < num_samples and not (answers and ask.budget.is_spent):
        node = root.selected(ask.random)
        context = prompt
        if node.candidate is not None:
            text = filled(refinement, problem=question, answer=node.candidate.text)
            context = render(rewritten(problem, text))
        (candidate,) = await ask(context)
        candidate = candidate.scored((await score([candidate]))[0])
        answers.append(candidate)
        number = number_of(candidate)
        child = node.added(candidate, prior, _checked(number, prior))
        deepest = max(deepest, child.depth)
    whole = [answer.ended for answer in answers]
    place = best_place(answers, whole if any(whole) else None)
    return select(answers, place, extract, None, num_independent=len(root.children), depth=deepest)


def _checked(score: float, prior: Prior) -> float:
    """The score as posteriors take it."""
    if score == -math.inf:
        return 0.0
    if prior == "beta" and not 0 <= score <= 1:
        raise ConfigError(
            f"ab_mcts: the scorer gave {score:g}, and prior beta takes 0 to 1; set prior: gaussian"
        )
    return score
