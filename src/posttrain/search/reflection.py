"""Attempts that learn from what the model said about those before."""

from __future__ import annotations

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Selection, select
from posttrain.search.dialogue import (
    check_template,
    filled,
    followed,
    is_cut,
    question_of,
    reply,
    rewritten,
)
from posttrain.search.scores import best_place, scored


@searches.register
async def reflexion(
    prompt,
    ask,
    extract,
    score,
    problem,
    render,
    *,
    threshold: float = 1.0,
    max_attempts: int = 3,
    max_reflections: int = 3,
    reflect: str = "This answer is wrong. In a few sentences, say why it may have failed, and what "
    "to do differently next time.\n",
    recall: str = "Your reflections on earlier attempts:\n{reflections}\n\n{problem}",
) -> Selection:
    """Reflexion (Shinn et al., arXiv 2303.11366): a verdict, and a memory of reflections in words.

        y_t ~ p(. | recall(memory, x))              with an empty memory: p(. | x)
        stop if score(y_t) >= threshold
        r_t ~ p(. | x, y_t, reflect);   memory = the last max_reflections of memory + [r_t]

    An attempt sees the reflections, and not the earlier attempts. The attempt with the highest
    score is chosen. With max_attempts 1 it is one sample. An empty reflection is not remembered.
    The paper's verdict is the gold or a test: `scorer: oracle`; what a deployed system has is a
    reward model, or tests that stand in the problem. notes: num_attempts; passed (1: the threshold
    was reached); empty_feedback, the number of empty reflections.

    threshold: score of an attempt that ends the search. max_attempts: at most. max_reflections: in
    the memory. reflect: asks for a reflection, with {problem}. recall: the question behind a
    memory, with {reflections} and {problem}.
    """
    if max_attempts < 1 or max_reflections < 1:
        raise ConfigError(
            f"reflexion: max_attempts {max_attempts} and max_reflections {max_reflections} must be "
            "at least 1"
        )
    check_template("reflexion.recall", recall, ("reflections", "problem"))
    question = question_of(problem)
    attempts = await scored([await reply(ask, prompt)], score)
    memory: list[str] = []
    empty = 0
    while len(attempts) < max_attempts and not is_cut(attempts[-1]) and not ask.budget.is_spent:
        if _passed(attempts[-1].score, threshold):
            break
        turn = (attempts[-1].text, filled(reflect, problem=question))
        reflection = (await reply(ask, render(followed(problem, [turn])))).text.strip()
        empty += not reflection
        memory = [*memory, *([reflection] if reflection else [])][-max_reflections:]
        context = prompt
        if memory:
            listed = "\n".join(f"- {text}" for text in memory)
            text = filled(recall, reflections=listed, problem=question)
            context = render(rewritten(problem, text))
        attempt = await reply(ask, context)
        if is_cut(attempt):
            break
        attempts += await scored([attempt], score)
    best = best_place(attempts)
    return select(
        attempts,
        best,
        extract,
        None,
        num_attempts=float(len(attempts)),
        passed=float(_passed(attempts[best].score, threshold)),
        empty_feedback=float(empty),
    )


def _passed(score: float | None, threshold: float) -> bool:
    return score is not None and score >= threshold
