"""What judges, critics and revisers are asked, as text: the same words teach one and ask it."""

from __future__ import annotations

from posttrain.types import Message, Text, plain_text

INSTRUCTION = "You judge answers. A good answer is correct, complete and to the point."

_ANSWERED = """{instruction}

Question:
{prompt}

Answer:
{completion}

"""

_PAIR = """{instruction}

Question:
{prompt}

Answer A:
{first}

Answer B:
{second}

Which answer is better, A or B? Reply with the letter alone."""

_RATING = (
    _ANSWERED
    + "How good is this answer, from 1 (worst) to {levels} (best)? Reply with the number alone."
)

_CRITERION = _ANSWERED + "Criterion: {criterion}\nDoes the answer meet it? Reply with yes or no."

_REASONED = (
    _ANSWERED
    + 'Is this answer right? Check it step by step, then write "Verdict: yes" or "Verdict: '
    'no".'
)

VERDICT = "Verdict:"
"""Stands before the verdict of a judge that reasons."""

_CRITIQUE = "Say briefly where the answer above falls short of this principle: {principle}"
_REVISION = "Now rewrite the answer so that it follows the principle. Write the answer alone."


def pair_question(prompt: Text, first: Text, second: Text, instruction: str) -> str:
    """Which of two answers is better: the reply is A or B."""
    return _PAIR.format(
        instruction=instruction,
        prompt=plain_text(prompt),
        first=content(first),
        second=content(second),
    )


def rating_question(prompt: Text, completion: Text, levels: int, instruction: str) -> str:
    """How good an answer is: the reply is a number from 1 to `levels`."""
    return _RATING.format(
        instruction=instruction,
        prompt=plain_text(prompt),
        completion=content(completion),
        levels=levels,
    )


def criterion_question(prompt: Text, completion: Text, criterion: str, instruction: str) -> str:
    """Whether an answer meets a criterion: the reply is yes or no."""
    return _CRITERION.format(
        instruction=instruction,
        prompt=plain_text(prompt),
        completion=content(completion),
        criterion=criterion,
    )


def reasoned_question(prompt: Text, completion: Text, instruction: str) -> str:
    """Whether an answer is right: the reply is a check of it, and `VERDICT` yes or no."""
    return _REASONED.format(
        instruction=instruction, prompt=plain_text(prompt), completion=content(completion)
    )


def as_prompt(question: str, *, chat: bool) -> Text:
    """A question as a chat turn, or as text that a reply follows."""
    return [{"role": "user", "content": question}] if chat else f"{question}\nReply:"


def as_reply(reply: str, *, chat: bool) -> str:
    """A reply as it stands behind `as_prompt`."""
    return reply if chat else f" {reply}"


def critique_prompt(prompt: Text, answer: str, principle: str) -> Text:
    """A prompt and its answer, with the question where that falls short of a principle."""
    return _talk(prompt, answer, _CRITIQUE.format(principle=principle))


def revision_prompt(prompt: Text, answer: str, principle: str, critique: str) -> Text:
    """The same with a critique, and the request to rewrite the answer; in turns where the prompt
    has turns.
    """
    asked = critique_prompt(prompt, answer, principle)
    if isinstance(asked, str):
        return f"{asked}{critique}\n\n{_REVISION}\n\n{plain_text(prompt)}"
    replied: list[Message] = [{"role": "assistant", "content": critique}]
    return [*asked, *replied, {"role": "user", "content": _REVISION}]


def _talk(prompt: Text, answer: str, request: str) -> Text:
    if isinstance(prompt, str):
        return f"{prompt}{answer}\n\n{request}\n"
    answered: list[Message] = [{"role": "assistant", "content": answer}]
    return [*prompt, *answered, {"role": "user", "content": request}]


def content(completion: Text) -> str:
    """The words of a completion, without roles."""
    if isinstance(completion, str):
        return completion
    return "\n".join(str(m.get("content", "")) for m in completion)
