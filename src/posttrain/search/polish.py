"""Problems that the model writes again before it answers them."""

from __future__ import annotations

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Selection, select
from posttrain.search.dialogue import (
    check_template,
    filled,
    is_cut,
    last_answered,
    question_of,
    reply,
    rewritten,
)


@searches.register
async def self_polish(
    prompt,
    ask,
    extract,
    problem,
    render,
    *,
    max_rounds: int = 3,
    polish: str = "{problem}\n\nRewrite this question so that it is clearer and easier to solve. "
    "Leave out what does not matter, put together what belongs together, and change no number.\n",
    template: str = "{problem}",
) -> Selection:
    """Self-Polish (Xi et al., arXiv 2305.14497): the problem is rewritten until its answer is
    stable.

        a_0 = answer(x_0);   x_t ~ p(. | polish(x_{t-1}));   a_t = answer(x_t)
        until a_t = a_{t-1}, or t = max_rounds

    A rewriting sees the newest form of the problem alone. Where the answer is never stable the last
    one is chosen. An empty rewriting, or one that changes nothing, ends it. notes: num_rounds;
    stable (1: two answers in a row agree); unchanged (1: the rewriting was empty or the same).

    max_rounds: of rewriting. polish: asks for the new problem, with {problem}. template: how the
    new one is asked, with {problem}, such as "Q: {problem}\\nA:".
    """
    if max_rounds < 1:
        raise ConfigError(f"self_polish: max_rounds is {max_rounds}; it must be at least 1")
    check_template("self_polish.polish", polish, ("problem",))
    check_template("self_polish.template", template, ("problem",))
    question = question_of(problem)
    attempts = [await reply(ask, prompt)]
    stable = unchanged = 0.0
    while len(attempts) <= max_rounds and not is_cut(attempts[-1]) and not ask.budget.is_spent:
        context = render(rewritten(problem, filled(polish, problem=question)))
        new = (await reply(ask, context)).text.strip()
        if not new or new == question.strip():
            unchanged = 1.0
            break
        question = filled(template, problem=new)
        attempt = await reply(ask, render(rewritten(problem, question)))
        if is_cut(attempt):
            break
        attempts.append(attempt)
        before, answer = (extract(a.text) for a in attempts[-2:])
        if answer is not None and answer == before:
            stable = 1.0
            break
    return select(
        attempts,
        last_answered(attempts, extract),
        extract,
        None,
        num_rounds=float(len(attempts) - 1),
        stable=stable,
        unchanged=unchanged,
    )
