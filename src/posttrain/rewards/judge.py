"""A language model as a judge: verdicts as probabilities of tokens, never as parsed text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.data.templates import encode_prompt, text_ids
from posttrain.engines.base import Engine
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.models.load import load_config, load_model
from posttrain.registry import rewards
from posttrain.types import Text, plain_text

Numbers = NDArray[np.float64]

INSTRUCTION = "You judge answers. A good answer is correct, complete and to the point."

_PAIR = """{instruction}

Question:
{prompt}

Answer A:
{first}

Answer B:
{second}

Which answer is better, A or B? Reply with the letter alone."""

_RATING = """{instruction}

Question:
{prompt}

Answer:
{completion}

How good is this answer, from 1 (worst) to {levels} (best)? Reply with the number alone."""


class Judge:
    """Asks a model which of two completions is better, or how good one is, and reads the
    probabilities of its replies.

    All questions of a call are computed together, what they share once.

    Args:
        chat: ask in a chat turn; None: where the prompts are chat messages.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        *,
        instruction: str | None = None,
        chat: bool | None = None,
    ) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self.instruction, self.chat = instruction or INSTRUCTION, chat

    def prefer(
        self, prompts: Sequence[Text], first: Sequence[Text], second: Sequence[Text]
    ) -> list[float]:
        """Probability that the first is the better one, averaged over both orders (RLAIF, arXiv
        2309.00267).

        P = (1 + p - q) / 2 with p the probability of "A" with the first as A, and q with the second
        as A, so that a judge's liking for a position cancels: P(x over y) + P(y over x) = 1, and
        1/2 for equal completions.
        """
        n = len(prompts)
        both = [(p, a, b) for p, a, b in zip(prompts, first, second, strict=True)]
        both += [(p, b, a) for p, a, b in both]
        asked = [
            _PAIR.format(
                instruction=self.instruction,
                prompt=plain_text(p),
                first=_content(a),
                second=_content(b),
            )
            for p, a, b in both
        ]
        table = self._replies(asked, [p for p, _, _ in both], ["A", "B"])
        p_a = np.exp(table[:, 0] - np.logaddexp(table[:, 0], table[:, 1]))
        return [float(x) for x in (1 + (p_a[:n] - p_a[n:])) / 2]

    def rate(
        self, prompts: Sequence[Text], completions: Sequence[Text], levels: int = 10
    ) -> list[float]:
        """Expected rating, sum_k k P(k) over the replies 1 to `levels` (G-Eval, arXiv
        2303.16634).
        """
        asked = [
            _RATING.format(
                instruction=self.instruction,
                prompt=plain_text(p),
                completion=_content(c),
                levels=levels,
            )
            for p, c in zip(prompts, completions, strict=True)
        ]
        replies = [str(k) for k in range(1, levels + 1)]
        probabilities = np.exp(self._replies(asked, list(prompts), replies))
        # A reply that another begins with, such as 1 and 10, has been said only where the other has
        # not.
        for short, reply in enumerate(replies):
            for long, other in enumerate(replies):
                if other != reply and other.startswith(reply):
                    probabilities[:, short] -= probabilities[:, long]
        probabilities = probabilities.clip(min=0) + 1e-300
        mean = probabilities @ np.arange(1.0, levels + 1) / probabilities.sum(axis=1)
        return [float(x) for x in mean]

    def _replies(self, asked: list[str], prompts: list[Text], replies: list[str]) -> Numbers:
        """Log-probs of each reply to each question: [questions, replies], nats."""
        sequences: list[tuple[list[int], int]] = []
        for question, prompt in zip(asked, prompts, strict=True):
            chat = self.chat if self.chat is not None else not isinstance(prompt, str)
            before = encode_prompt(
                self.tokenizer,
                [{"role": "user", "content": question}] if chat else f"{question}\nReply:",
            )
            for reply in replies:
                ids = text_ids(self.tokenizer, reply if chat else f" {reply}", start=False)
                sequences.append(([*before, *ids], len(before)))
        found = [sum(x) for x in self.engine.score(sequences)]
        return np.array(found, dtype=np.float64).reshape(len(asked), len(replies))


@rewards.register
def judge(
    prompts,
    completions,
    *,
    path: str,
    levels: int = 10,
    instruction: str | None = None,
    chat: bool | None = None,
    device: str = "auto",
) -> list[float]:
    """How good a language model finds a completion, from 1 to levels: the expected value of its
    rating (d-RLAIF, 2309.00267).

    path: folder or hub id of the judge. instruction: what it is told that good means. chat: ask in
    a chat turn (left out: where the prompts are chat messages).
    """
    return _judge(path, device, instruction, chat).rate(prompts, completions, levels)


@rewards.register
def judge_win_rate(
    prompts,
    completions,
    *,
    path: str,
    instruction: str | None = None,
    chat: bool | None = None,
    device: str = "auto",
) -> list[float | None]:
    """Mean probability that a judge prefers a completion to the others of its prompt, both orders
    asked; None for a lone one.

    Completions of a prompt stand side by side. The mean over them is 1/2. path, instruction, chat:
    as of reward judge.
    """
    pairs = [
        (i, j)
        for i in range(len(prompts))
        for j in range(i + 1, len(prompts))
        if all(prompts[i] == prompts[k] for k in range(i + 1, j + 1))
    ]
    asked = _judge(path, device, instruction, chat).prefer(
        [prompts[i] for i, _ in pairs],
        [completions[i] for i, _ in pairs],
        [completions[j] for _, j in pairs],
    )
    won: list[list[float]] = [[] for _ in prompts]
    for (i, j), p in zip(pairs, asked, strict=True):
        won[i].append(p)
        won[j].append(1 - p)
    return [sum(x) / len(x) if x else None for x in won]


_judges: dict[tuple[str, str], TorchEngine] = {}


def _judge(path: str, device: str, instruction: str | None, chat: bool | None) -> Judge:
    if (path, device) not in _judges:
        model = load_model(path, device=device)
        model.hf.requires_grad_(False)
        _judges[path, device] = TorchEngine(model)
    engine = _judges[path, device]
    return Judge(engine, engine.model.tokenizer, instruction=instruction, chat=chat)


def _check(*, path: str, levels: int = 10, **_: Any) -> None:
    load_config(path)
    if levels < 2:
        raise ConfigError(f"rewards: judge: levels {levels} must be at least 2")


judge.check = judge_win_rate.check = _check  # type: ignore[attr-defined]
judge.close = judge_win_rate.close = _judges.clear  # type: ignore[attr-defined]


def _content(completion: Text) -> str:
    return (
        completion
        if isinstance(completion, str)
        else "\n".join(str(m.get("content", "")) for m in completion)
    )
