"""Answers that are checked before they are given: by questions, or by a tool."""

from __future__ import annotations

import asyncio
import re

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Selection, select
from posttrain.search.dialogue import (
    check_template,
    filled,
    followed,
    is_cut,
    last_answered,
    lines_of,
    question_of,
    reply,
    rewritten,
)

_EQUATION = re.compile(
    r"(?<![\d.+*/=-])(\d{1,18}(?:[ \t]*[-+*][ \t]*\d{1,18})+)[ \t]*=[ \t]*(-?\d{1,40})"
    r"(?!\d|\.\d|[ \t]*[-+*/][ \t]*\d)"
)
_TERM = re.compile(r"([-+*])(\d+)")


@searches.register
async def chain_of_verification(
    prompt,
    ask,
    extract,
    problem,
    render,
    *,
    max_questions: int = 3,
    plan: str = "Which short questions would check the facts in this answer? List them, one per "
    "line.\n",
    check: str = "{question}",
    verify: str = "{problem}\n\nA first answer:\n{answer}\n\nIt was checked:\n{checks}\n\nGive the "
    "final answer, without what the checks contradict.\n{problem}",
) -> Selection:
    """Chain-of-verification, factored (Dhuliawala et al., arXiv 2309.11495).

        y       ~ p(. | x)                                  a first answer
        q_1..k  = lines of p(. | x, y, plan)                questions that check it
        a_i     ~ p(. | q_i)                                side by side, without x and y
        y'      ~ p(. | verify(x, y, q_1, a_1, ..., q_k, a_k))

    Questions are answered without the first answer, so that they do not repeat its errors. Without
    a question, or where y' has no answer, y is chosen. notes: num_questions, of those that were
    answered; changed (1: the answer is another).

    max_questions: at most. plan: asks for questions, with {problem}. check: how one is asked, with
    {question}. verify: asks for the final answer, with {problem}, {answer} and {checks}.
    """
    if max_questions < 1:
        raise ConfigError(
            f"chain_of_verification: max_questions is {max_questions}; it must be at least 1"
        )
    check_template("chain_of_verification.check", check, ("question",))
    check_template("chain_of_verification.verify", verify, ("checks",))
    question = question_of(problem)
    first = await reply(ask, prompt)
    candidates, pairs = [first], []
    if not is_cut(first) and not ask.budget.is_spent:
        turn = (first.text, filled(plan, problem=question))
        planned = await reply(ask, render(followed(problem, [turn])))
        questions = lines_of(planned.text, max_questions)
        texts = [rewritten(problem, filled(check, question=q)) for q in questions]
        replies = await asyncio.gather(*(reply(ask, render(text)) for text in texts))
        pairs = [(q, a.text.strip()) for q, a in zip(questions, replies) if a.text.strip()]
    if pairs and not ask.budget.is_spent:
        checks = "\n".join(f"{q} {a}" for q, a in pairs)
        text = filled(verify, problem=question, answer=first.text.strip(), checks=checks)
        final = await reply(ask, render(rewritten(problem, text)))
        candidates += [] if is_cut(final) else [final]
    chosen = last_answered(candidates, extract)
    changed = chosen > 0 and extract(first.text) != extract(candidates[chosen].text)
    notes = {"num_questions": float(len(pairs)), "changed": float(changed)}
    return select(candidates, chosen, extract, None, **notes)


@searches.register
async def critic(
    prompt,
    ask,
    extract,
    problem,
    render,
    *,
    max_rounds: int = 3,
    correct: str = "A calculator found errors in this answer:\n{findings}\n\nWrite the answer "
    "again without them.\n{problem}",
) -> Selection:
    """CRITIC with a calculator (Gou et al., arXiv 2305.11738): a tool checks, the model corrects.

        y_0 ~ p(. | x);   y_{t+1} ~ p(. | x, y_t, correct(findings of y_t))
        until the tool finds no error, or max_rounds corrections

    The tool works out every equation of whole numbers in the answer, such as "12*3=35", from left
    to right and with the precedence of *; it is wrong where neither gives the right-hand
    side. No model judges, and an answer without an equation passes. The last attempt with an answer
    is chosen. notes: num_rounds; errors_first and errors_last, the findings in the first and in the
    chosen attempt.

    max_rounds: corrections at most. correct: asks for a correction, with {findings} and {problem}.
    """
    if max_rounds < 1:
        raise ConfigError(f"critic: max_rounds is {max_rounds}; it must be at least 1")
    check_template("critic.correct", correct, ("findings",))
    question = question_of(problem)
    attempts = [await reply(ask, prompt)]
    while len(attempts) <= max_rounds and not is_cut(attempts[-1]) and not ask.budget.is_spent:
        findings = wrong_equations(attempts[-1].text)
        if not findings:
            break
        text = filled(correct, findings="\n".join(findings), problem=question)
        attempt = await reply(ask, render(followed(problem, [(attempts[-1].text, text)])))
        if is_cut(attempt):
            break
        attempts.append(attempt)
    chosen = last_answered(attempts, extract)
    return select(
        attempts,
        chosen,
        extract,
        None,
        num_rounds=float(len(attempts) - 1),
        errors_first=float(len(wrong_equations(attempts[0].text))),
        errors_last=float(len(wrong_equations(attempts[chosen].text))),
    )


def wrong_equations(text: str) -> list[str]:
    """What a calculator finds wrong in a text, each equation once.

    >>> wrong_equations("7+5=12, 12*3=35")
    ['12*3=35 is wrong: 12*3=36']
    """
    findings: dict[str, None] = {}
    for match in _EQUATION.finditer(text):
        left, right = re.sub(r"\s", "", match[1]), match[2]
        if int(right) not in (value := _values(left)):
            findings[f"{left}={right} is wrong: {left}={value[1]}"] = None
    return list(findings)


def _values(left: str) -> tuple[int, int]:
    """The value of a chain of +, - and *: from left to right, and with the precedence of *."""
    in_order, done, product = 0, 0, 0
    for operation, digits in _TERM.findall(f"+{left}"):
        number = int(digits)
        if operation == "*":
            in_order, product = in_order * number, product * number
        else:
            signed = number if operation == "+" else -number
            in_order, done, product = in_order + signed, done + product, signed
    return in_order, done + product
