"""A generative reward model: a judge that reasons before it gives its verdict."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.config import EndpointConfig
from posttrain.data.templates import encode_prompt, text_ids
from posttrain.errors import ConfigError
from posttrain.registry import rewards
from posttrain.rewards.judge import JudgeReward
from posttrain.rewards.judge_questions import (
    INSTRUCTION,
    VERDICT,
    as_prompt,
    reasoned_question,
)
from posttrain.rewards.reward import LoadedModels, made_by
from posttrain.types import Request, Sampling, Text

_VERDICT = re.compile(rf"{re.escape(VERDICT)}\s*(yes|no)\b", re.IGNORECASE)


def verdict_of(text: str) -> str | None:
    """The last verdict in a judge's reply: "yes", "no", or None where there is none.

    >>> verdict_of("7+5 is 12, and 12*3 is 36. Verdict: yes")
    'yes'
    """
    verdicts = _VERDICT.findall(text)
    return str(verdicts[-1]).lower() if verdicts else None


class ReasonedReward(JudgeReward):
    """The reward `reasoned_judge` with its settings."""

    name = "reasoned_judge"

    def __init__(
        self,
        models: LoadedModels,
        *,
        num_reasons: int = 1,
        max_tokens: int = 256,
        temperature: float = 1.0,
        seed: int = 0,
        endpoint: EndpointConfig | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(models, endpoint=endpoint, **settings)
        self.num_reasons, self.seed = num_reasons, seed
        self.sampling = Sampling(max_tokens=max_tokens, temperature=temperature, stop=(VERDICT,))

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[float]:
        """The mean probability of the verdict yes over reasons."""
        questions = [
            reasoned_question(p, c, self.instruction or INSTRUCTION)
            for p, c in zip(prompts, completions, strict=True)
        ]
        return self._told(questions) if self.endpoint else self._scored(questions, prompts)

    def _told(self, questions: list[str]) -> list[float]:
        """The share of a server's replies whose verdict is yes; no verdict is a no."""
        sampling = Sampling(
            max_tokens=self.sampling.max_tokens, temperature=self.sampling.temperature
        )
        replies = self.replies(questions, sampling, n=self.num_reasons, seed=self.seed)
        return [sum(verdict_of(t) == "yes" for t in row) / len(row) for row in replies]

    def _scored(self, questions: list[str], prompts: Sequence[Text]) -> list[float]:
        judge = self.judge()
        contexts = []
        for question, prompt in zip(questions, prompts, strict=True):
            chat = judge.chat if judge.chat is not None else not isinstance(prompt, str)
            contexts.append(tuple(encode_prompt(judge.tokenizer, as_prompt(question, chat=chat))))
        requests = [
            Request(ids, self.sampling, n=self.num_reasons, seed=_seed(question, self.seed))
            for ids, question in zip(contexts, questions, strict=True)
        ]
        sequences: list[tuple[list[int], int]] = []
        for ids, samples in zip(contexts, judge.engine.generate(requests), strict=True):
            for sample in samples:
                # A judge that came to no verdict is asked for it all the same.
                asked = "" if sample.stop_string else f"\n{VERDICT}"
                before = [*ids, *sample.ids, *text_ids(judge.tokenizer, asked, start=False)]
                for reply in (" yes", " no"):
                    after = text_ids(judge.tokenizer, reply, start=False)
                    sequences.append(([*before, *after], len(before)))
        logprobs = [sum(x) for x in judge.engine.score(sequences)]
        table = np.array(logprobs).reshape(len(questions), self.num_reasons, 2)
        probabilities = np.exp(table[..., 0] - np.logaddexp(table[..., 0], table[..., 1]))
        return [float(p) for p in probabilities.mean(axis=1)]

    def check(self) -> None:
        """See `Reward.check`."""
        super().check()
        if self.num_reasons < 1 or self.sampling.max_tokens < 1:
            raise ConfigError(
                f"rewards: reasoned_judge: num_reasons {self.num_reasons} and max_tokens "
                f"{self.sampling.max_tokens} must be at least 1"
            )


def _seed(question: str, seed: int) -> int:
    """A seed of a question, whatever else is asked with it: a text has one score."""
    digest = hashlib.blake2b(question.encode(errors="replace"), digest_size=7)
    return (int.from_bytes(digest.digest(), "big") + seed) % 2**62


@rewards.register
@made_by(ReasonedReward)
def reasoned_judge(
    prompts,
    completions,
    *,
    num_reasons: int = 1,
    max_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    path: str | None = None,
    engine: Any = None,
    endpoint: EndpointConfig | None = None,
    tokenizer: Any = None,
    instruction: str | None = None,
    chat: bool | None = None,
    device: str = "auto",
) -> list[float]:
    """The probability that a judge calls a completion right, after reasons that it writes first
    (generative verifiers, arXiv 2408.15240, GenRM-CoT).

        r = 1/K sum_k P(yes | x, y, c_k),   c_k ~ judge(. | x, y),   P over yes and no

    c_k is what the judge writes up to "Verdict:". The same text gets the same score.

    Args:
        num_reasons: reasons K for each completion.
        max_tokens: longest reasons.
        temperature: at which they are sampled.
        seed: of the sampling.
        path: folder or hub id of the judge. engine: an engine of the judge's model in its place (in
            Python), with `tokenizer` where the engine has none. endpoint: a judge behind a server
            in their place; r is then the share of its replies with the verdict yes.
        instruction: what stands before the question.
        chat: ask in a chat turn (left out: where the prompts are chat messages).
    """
    reward = ReasonedReward(
        LoadedModels(),
        num_reasons=num_reasons,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        path=path,
        engine=engine,
        endpoint=endpoint,
        tokenizer=tokenizer,
        instruction=instruction,
        chat=chat,
        device=device,
    )
    return reward(prompts, completions)
