"""Answers that the model criticises and writes again."""

from __future__ import annotations

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection, select
from posttrain.search.dialogue import (
    filled,
    followed,
    is_cut,
    last_answered,
    question_of,
    reply,
)


@searches.register
async def self_refine(
    prompt,
    ask,
    extract,
    problem,
    render,
    *,
    max_attempts: int = 4,
    feedback: str = "Check the answer above step by step. Say what is wrong with it. If nothing is "
    "wrong, say: it is correct.\n",
    refine: str = "Write a better answer that follows this feedback.\n{problem}",
    stop_phrase: str = "it is correct",
    feedback_temperature: float = 0.7,
) -> Selection:
    """Self-refine (Madaan et al., arXiv 2303.17651).

        y_0      ~ p(. | x)
        f_t      ~ p(. | x, y_t, feedback)                        until f_t holds stop_phrase
        y_{t+1}  ~ p(. | x, y_0, feedback, f_0, refine, ..., y_t, feedback, f_t, refine)

    Feedback is about the newest attempt alone; a new attempt sees all earlier attempts and their
    feedback. The last attempt with an answer is chosen. Empty feedback ends it. With max_attempts 1
    it is one sample. The paper sees large gains where style and coverage count, and almost none in
    arithmetic without a verifier. notes: num_attempts; stopped (1: by the phrase);
    empty_feedback.

    max_attempts: y_0 among them. feedback, refine: instructions, with {problem}. stop_phrase: upper
    and lower case are the same; empty never stops. feedback_temperature: of the feedback.
    """
    _check("self_refine", max_attempts, "max_attempts")
    question = question_of(problem)
    request = filled(feedback, problem=question)
    attempts = [await reply(ask, prompt)]
    turns: list[tuple[str, str]] = []
    stopped = empty = 0.0
    while len(attempts) < max_attempts and not is_cut(attempts[-1]) and not ask.budget.is_spent:
        text = attempts[-1].text
        context = render(followed(problem, [(text, request)]))
        criticism = await reply(ask, context, temperature=feedback_temperature)
        if not criticism.text.strip():
            empty = 1.0
            break
        if stop_phrase and stop_phrase.lower() in criticism.text.lower():
            stopped = 1.0
            break
        turns += [(text, request), (criticism.text, filled(refine, problem=question))]
        attempt = await reply(ask, render(followed(problem, turns)))
        if is_cut(attempt):
            break
        attempts.append(attempt)
    return select(
        attempts,
        last_answered(attempts, extract),
        extract,
        None,
        num_attempts=float(len(attempts)),
        stopped=stopped,
        empty_feedback=empty,
    )


@searches.register
async def rci(
    prompt,
    ask,
    extract,
    problem,
    render,
    *,
    max_rounds: int = 2,
    criticise: str = "Review your previous answer and find problems with your answer.\n",
    improve: str = "Based on the problems you found, improve your answer.\n{problem}",
) -> Selection:
    """Recursive criticism and improvement (Kim et al., arXiv 2303.17491).

        y_0 ~ p(. | x);   c_t ~ p(. | x, y_0, c_1, y_1, ..., criticise)
        y_t ~ p(. | x, y_0, ..., criticise, c_t, improve)

    One conversation, in which criticism and improvement see everything before them. It ends when
    an answer is that of the round before, because the criticism changed nothing: the paper stops
    by the gold answer in arithmetic, which no deployed system has. Empty criticism ends it.
    notes: num_rounds; unchanged (1: an answer was repeated); empty_feedback.

    max_rounds: of criticism. criticise, improve: instructions, with {problem}.
    """
    _check("rci", max_rounds, "max_rounds")
    question = question_of(problem)
    attempts = [await reply(ask, prompt)]
    turns: list[tuple[str, str]] = []
    unchanged = empty = 0.0
    while len(attempts) <= max_rounds and not is_cut(attempts[-1]) and not ask.budget.is_spent:
        turns.append((attempts[-1].text, filled(criticise, problem=question)))
        criticism = await reply(ask, render(followed(problem, turns)))
        if not criticism.text.strip():
            empty = 1.0
            break
        turns.append((criticism.text, filled(improve, problem=question)))
        attempt = await reply(ask, render(followed(problem, turns)))
        if is_cut(attempt):
            break
        attempts.append(attempt)
        if _same(attempts[-2:], extract):
            unchanged = 1.0
            break
    return select(
        attempts,
        last_answered(attempts, extract),
        extract,
        None,
        num_rounds=float(len(attempts) - 1),
        unchanged=unchanged,
        empty_feedback=empty,
    )


def _same(attempts: list[Candidate], extract) -> bool:
    """Whether two attempts give the same answer."""
    first, second = (extract(attempt.text) for attempt in attempts)
    return first is not None and first == second


def _check(strategy: str, number: int, name: str) -> None:
    if number < 1:
        raise ConfigError(f"{strategy}: {name} is {number}; it must be at least 1")
