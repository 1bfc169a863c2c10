"""Self-consistency without extracted answers: the model itself picks among what it wrote."""

from __future__ import annotations

import re

from posttrain.registry import searches
from posttrain.search.base import Candidate, Ids, Selection, select
from posttrain.search.vote import vote
from posttrain.types import Text, plain_text

_CHOICE = re.compile(r"response\s*#?\s*(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")


@searches.register
async def universal_consistency(
    prompt,
    ask,
    extract,
    problem,
    render,
    *,
    num_samples: int = 8,
    max_choice_tokens: int = 64,
    temperature: float = 0.0,
) -> Selection:
    """Universal self-consistency (Chen et al., arXiv 2311.17311): the model reads its answers and
    names the one that most of them agree with, so that free text can be voted on.

        y_1 ... y_N ~ policy(problem);  i = policy("which of y_1 ... y_N is most consistent?")

    Where the model names no response, or the prompt of the choice does not fit into its context,
    the extracted answers vote (note fell_back 1). No choice is asked for where all texts are equal.

    num_samples: texts to choose among. max_choice_tokens: of the text in which the model chooses.
    temperature: of that text.
    """
    candidates = await ask(prompt, num_samples)
    written = [i for i, candidate in enumerate(candidates) if candidate.ids]
    texts = [candidates[i].text for i in written]
    if len(set(texts)) < 2 or ask.budget.is_spent:
        return vote(candidates, [1.0] * num_samples, extract, fell_back=0.0)
    question = _as_given(problem, choice_text(problem, texts))
    context: Ids = tuple(render(question))
    choice: Candidate = (
        await ask(context, 1, max_tokens=max_choice_tokens, temperature=temperature)
    )[0]
    number = chosen_number(choice.text, len(texts))
    if number is None:
        return vote(candidates, [1.0] * num_samples, extract, fell_back=1.0)
    return select(candidates, written[number - 1], extract, None, fell_back=0.0)


def choice_text(problem: Text, texts: list[str]) -> str:
    """The prompt in which the model chooses; responses are numbered from 1."""
    responses = "\n\n".join(f"Response {i}:\n{text.strip()}" for i, text in enumerate(texts, 1))
    return (
        f"Question:\n{plain_text(problem)}\n\n{responses}\n\n"
        "Which response do most of the others agree with? Compare their final answers. Begin with: "
        "The most consistent response is Response"
    )


def chosen_number(text: str, num_responses: int) -> int | None:
    """The number of the response that a text names, from 1; None where it names none that exists.

    >>> chosen_number("The most consistent response is Response 3, because 1 is wrong.", 4)
    3
    """
    numbers = _CHOICE.findall(text) or _NUMBER.findall(text)[:1]
    for number in numbers:
        if len(number) < 6 and 1 <= int(number) <= num_responses:
            return int(number)
    return None


def _as_given(problem: Text, text: str) -> Text:
    """The text as a plain prompt; where the problem is messages, as a message behind its system
    messages.
    """
    if isinstance(problem, str):
        return text
    system = [message for message in problem if message["role"] == "system"]
    return [*system, {"role": "user", "content": text}]
