"""Prompts that make a model reason: cues, a second reading, sub-questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Ids, Selection, select
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
from posttrain.types import Text


@searches.register
async def zero_shot_cot(
    prompt,
    ask,
    extract,
    encode,
    *,
    cue: str = " Let's think step by step.",
    answer_cue: str = "\nTherefore, the answer is",
    max_answer_tokens: int = 32,
) -> Selection:
    """Zero-shot chain of thought (Kojima et al., arXiv 2205.11916), in two calls.

        chain  ~ p(. | prompt, cue)
        answer ~ p(. | prompt, cue, chain, answer_cue)        up to the end of its line

    The completion is cue, chain, answer cue and answer, all of the assistant's turn. Where the
    second call gives no answer, the chain alone is chosen (note answers_of_chain). With both cues
    empty it is one sample.

    cue: begins the chain. answer_cue: asks for the answer behind the chain; empty makes no second
    call. max_answer_tokens: of the second call.
    """
    return await _reasoned(prompt, ask, extract, encode, cue, answer_cue, max_answer_tokens)


@searches.register
async def plan_and_solve(
    prompt,
    ask,
    extract,
    encode,
    *,
    cue: str = " Let's first understand the problem and devise a plan to solve the problem. "
    "Then, let's carry out the plan and solve the problem step by step.",
    answer_cue: str = "\nTherefore, the answer is",
    max_answer_tokens: int = 32,
) -> Selection:
    """Plan-and-solve (Wang et al., arXiv 2305.04091): `zero_shot_cot` whose cue asks for a plan.

    The paper's longer cue (PS+) also asks to "extract relevant variables and their corresponding
    numerals" and to "calculate intermediate variables (pay attention to correct numerical
    calculation and commonsense)".

    cue: begins the completion. answer_cue: asks for the answer behind it; empty makes no second
    call. max_answer_tokens: of the second call.
    """
    return await _reasoned(prompt, ask, extract, encode, cue, answer_cue, max_answer_tokens)


@searches.register
async def re_read(
    prompt,
    ask,
    extract,
    encode,
    problem,
    render,
    *,
    template: str = "{problem}\nRead the question again: {problem}",
    cue: str = "",
    answer_cue: str = "",
    max_answer_tokens: int = 32,
) -> Selection:
    """Re-reading, RE2 (Xu et al., arXiv 2309.06275): the question stands twice in the prompt.

    template: the question as it is asked, with {problem}; "{problem}" asks it once. cue, answer_cue
    and max_answer_tokens: as of `zero_shot_cot`, with which the paper combines it; empty cues ask
    once and directly.
    """
    check_template("re_read.template", template, ("problem",))
    question = question_of(problem)
    again = rewritten(problem, filled(template, problem=question))
    context = render(again) if again != problem else prompt
    return await _reasoned(context, ask, extract, encode, cue, answer_cue, max_answer_tokens)


@searches.register
async def least_to_most(
    prompt,
    ask,
    extract,
    problem,
    render,
    *,
    max_questions: int = 4,
    decompose: str = "{problem}\n\nTo answer this question, which simpler questions have to be "
    "answered first? List them in order, one per line.\n",
    ask_part: str = "{problem}\n\nAnswer this part of it first: {question}\n",
    ask_whole: str = "Now answer the question itself.\n{problem}",
) -> Selection:
    """Least-to-most prompting (Zhou et al., arXiv 2205.10625).

        q_1 .. q_k   = lines of y ~ p(. | decompose(problem))                  k <= max_questions
        a_i          ~ p(. | ask_part(q_1), a_1, ..., ask_part(q_i))
        answer       ~ p(. | ask_part(q_1), a_1, ..., a_k, ask_whole(problem))

    Each question is asked with all earlier questions and answers before it. A decomposition without
    a line makes the last call the plain prompt. Where the last call is cut off, the last part with
    an answer is chosen. notes: num_questions, of those that were answered.

    max_questions: sub-questions at most. decompose: asks for them, with {problem}. ask_part: asks
    one, with {question}; {problem} is filled in for the first only. ask_whole: asks for the answer.
    """
    check_template("least_to_most.decompose", decompose, ("problem",))
    check_template("least_to_most.ask_part", ask_part, ("problem", "question"))
    question = question_of(problem)
    listed = await reply(ask, render(rewritten(problem, filled(decompose, problem=question))))
    parts = lines_of(listed.text, max_questions)
    instructions = [
        filled(ask_part, problem="" if i else question, question=part).lstrip()
        for i, part in enumerate(parts)
    ]
    answers: list[Candidate] = []
    while len(answers) < len(parts) and not ask.budget.is_spent:
        said = instructions[: len(answers) + 1]
        answer = await reply(ask, render(_conversation(problem, said, answers)))
        if is_cut(answer):
            break
        answers.append(answer)
    said = [*instructions[: len(answers)], filled(ask_whole, problem=question)]
    last = await reply(ask, render(_conversation(problem, said, answers)) if answers else prompt)
    candidates = [*answers, last]
    chosen = last_answered(candidates, extract)
    return select(candidates, chosen, extract, None, num_questions=float(len(answers)))


def _conversation(problem: Text, instructions: Sequence[str], answers: Sequence[Candidate]) -> Text:
    """Instructions in place of the problem's question, with an answer behind each but the last."""
    texts = [answer.text for answer in answers]
    turns = zip(texts, instructions[1:], strict=True)
    return followed(rewritten(problem, instructions[0]), turns)


async def _reasoned(
    context: Ids,
    ask: Any,
    extract: Callable[[str], str | None],
    encode: Callable[[str], Ids],
    cue: str,
    answer_cue: str,
    max_answer_tokens: int,
) -> Selection:
    """A chain behind a cue, and the answer behind a second one."""
    candidates = await reasoning(context, ask, encode, cue, answer_cue, max_answer_tokens)
    return select_reasoned(candidates, extract)


def select_reasoned(
    candidates: list[Candidate], extract: Callable[[str], str | None], **notes: float
) -> Selection:
    """The completion with its answer; where that has none and the chain alone has one, the chain.

    candidates: see `reasoning`.
    """
    answers = [extract(candidate.text) for candidate in candidates]
    of_chain = len(candidates) == 2 and answers[1] is None and answers[0] is not None
    chosen = 0 if of_chain else len(candidates) - 1
    return select(candidates, chosen, extract, None, answers_of_chain=float(of_chain), **notes)


async def reasoning(
    context: Ids,
    ask: Any,
    encode: Callable[[str], Ids],
    cue: str,
    answer_cue: str,
    max_answer_tokens: int,
    **more: Any,
) -> list[Candidate]:
    """The chain, and the whole completion with its answer where that was sampled.

    A candidate's ids are those of its own call; its text is the completion from the cue on.

    Args:
        more: of both calls, such as temperature.

    Raises:
        ConfigError: max_answer_tokens is below 1.
    """
    if max_answer_tokens < 1:
        raise ConfigError(f"max_answer_tokens is {max_answer_tokens}; it must be at least 1")
    begun = (*context, *encode(cue)) if cue else context
    chain = await reply(ask, begun, **more)
    candidates = [replace(chain, text=cue + chain.text)]
    if not answer_cue or is_cut(chain) or ask.budget.is_spent:
        return candidates
    text = chain.text.rstrip() + answer_cue
    bound = min(max_answer_tokens, ask.sampling.max_tokens)
    ending = (*begun, *encode(text))
    answer = await reply(ask, ending, stop=("\n",), max_tokens=bound, **more)
    if not is_cut(answer):
        candidates.append(replace(answer, text=cue + text + answer.text))
    return candidates
