"""A language model as a judge: verdicts as probabilities of tokens, never as parsed text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.config import EndpointConfig
from posttrain.data.templates import encode_prompt, text_ids
from posttrain.engines.base import Engine
from posttrain.engines.endpoint import Endpoint
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, RewardError
from posttrain.models.load import load_config, load_model
from posttrain.registry import rewards
from posttrain.rewards.judge_questions import (
    INSTRUCTION,
    as_prompt,
    as_reply,
    criterion_question,
    pair_question,
    rating_question,
)
from posttrain.rewards.reward import LoadedModels, made_by
from posttrain.types import Sampling, Text

Numbers = NDArray[np.float64]


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
        questions = [pair_question(p, a, b, self.instruction) for p, a, b in both]
        table = self._replies(questions, [p for p, _, _ in both], ["A", "B"])
        p_a = np.exp(table[:, 0] - np.logaddexp(table[:, 0], table[:, 1]))
        return [float(x) for x in (1 + (p_a[:n] - p_a[n:])) / 2]

    def rate(
        self, prompts: Sequence[Text], completions: Sequence[Text], levels: int = 10
    ) -> list[float]:
        """Expected rating, sum_k k P(k) over the replies 1 to `levels` (G-Eval, arXiv
        2303.16634).
        """
        questions = [
            rating_question(p, c, levels, self.instruction)
            for p, c in zip(prompts, completions, strict=True)
        ]
        replies = [str(k) for k in range(1, levels + 1)]
        probabilities = np.exp(self._replies(questions, list(prompts), replies))
        # A reply that another begins with, such as 1 and 10, has been said only where the other has
        # not.
        for short, reply in enumerate(replies):
            for long, other in enumerate(replies):
                if other != reply and other.startswith(reply):
                    probabilities[:, short] -= probabilities[:, long]
        probabilities = probabilities.clip(min=0) + 1e-300
        mean = probabilities @ np.arange(1.0, levels + 1) / probabilities.sum(axis=1)
        return [float(x) for x in mean]

    def meets(
        self, prompts: Sequence[Text], completions: Sequence[Text], criteria: Sequence[str]
    ) -> list[float]:
        """Probability that each completion meets its criterion: P(yes) / (P(yes) + P(no))."""
        questions = [
            criterion_question(p, c, criterion, self.instruction)
            for p, c, criterion in zip(prompts, completions, criteria, strict=True)
        ]
        table = self._replies(questions, list(prompts), ["yes", "no"])
        return [float(x) for x in np.exp(table[:, 0] - np.logaddexp(table[:, 0], table[:, 1]))]

    def _replies(self, questions: list[str], prompts: list[Text], replies: list[str]) -> Numbers:
        """Log-probs of each reply to each question: [questions, replies], nats."""
        sequences: list[tuple[list[int], int]] = []
        for question, prompt in zip(questions, prompts, strict=True):
            chat = self.chat if self.chat is not None else not isinstance(prompt, str)
            before = encode_prompt(self.tokenizer, as_prompt(question, chat=chat))
            for reply in replies:
                ids = text_ids(self.tokenizer, as_reply(reply, chat=chat), start=False)
                sequences.append(([*before, *ids], len(before)))
        logprobs = [sum(x) for x in self.engine.score(sequences)]
        return np.array(logprobs, dtype=np.float64).reshape(len(questions), len(replies))


class JudgeReward:
    """A judge with its settings: a `Reward` that holds its engine.

    Args:
        endpoint: a server in the place of both, for judges that are read as text.
        engine: samples and scores with the judge's model, in place of one that is loaded from
            `path`. Its tokenizer is that of its model, or `tokenizer`.
    """

    name = "judge"

    def __init__(
        self,
        models: LoadedModels,
        *,
        path: str | None = None,
        engine: Any = None,
        tokenizer: Any = None,
        instruction: str | None = None,
        chat: bool | None = None,
        device: str = "auto",
        endpoint: EndpointConfig | None = None,
    ) -> None:
        self.models, self.path, self.device = models, path, device
        self.engine, self.tokenizer, self.endpoint = engine, tokenizer, endpoint
        self.instruction, self.chat = instruction, chat

    def judge(self) -> Judge:
        """The judge, loaded at its first use."""
        self._check_source()
        engine = self.engine or self.models.get(("judge", str(self.path), self.device), self._load)
        tokenizer = self.tokenizer or engine.model.tokenizer
        return Judge(engine, tokenizer, instruction=self.instruction, chat=self.chat)

    def replies(
        self, questions: Sequence[str], sampling: Sampling, *, n: int, seed: int = 0
    ) -> list[list[str]]:
        """`n` replies of the judge behind the endpoint to each question.

        Raises:
            RewardError: the server refuses a question.
        """
        config = self.endpoint
        assert config is not None
        server = self.models.get(("endpoint", config.url, config.model), lambda: Endpoint(config))
        chat = self.chat if self.chat is not None else True
        asked = [as_prompt(question, chat=chat) for question in questions]
        written = server.complete(asked, sampling, n=n, seeds=[seed] * len(asked))
        if not all(written):
            raise RewardError(f"rewards: {self.name}: {config.url} refuses a question")
        return [[w.text for w in row] for row in written]

    def check(self) -> None:
        """See `Reward.check`."""
        self._check_source()
        if self.path is not None:
            load_config(self.path)

    def close(self) -> None:
        """Nothing: the engine belongs to the set of rewards, or to the caller."""

    def _check_source(self) -> None:
        sources = self.path, self.engine, self.endpoint
        if sum(source is not None for source in sources) != 1:
            raise ConfigError(
                f"rewards: {self.name}: set path to a folder or hub id, or engine to an engine of "
                "the judge's model, and not more than one of them"
            )
        if self.engine is None:
            return
        if not callable(getattr(self.engine, "score", None)):
            raise ConfigError(
                f"rewards: {self.name}: engine is {type(self.engine).__name__}, which scores no "
                "tokens. A folder or hub id is the setting path"
            )
        if self.tokenizer is None and not hasattr(self.engine, "model"):
            raise ConfigError(
                f"rewards: {self.name}: the engine {type(self.engine).__name__} has no model to "
                "take a tokenizer from; set tokenizer"
            )

    def _load(self) -> TorchEngine:
        model = load_model(str(self.path), device=self.device)
        model.hf.requires_grad_(False)
        return TorchEngine(model)


class RatingReward(JudgeReward):
    """The reward `judge` with its settings."""

    def __init__(self, models: LoadedModels, *, levels: int = 10, **settings: Any) -> None:
        super().__init__(models, **settings)
        self.levels = levels

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[float]:
        """The rating of each completion."""
        return self.judge().rate(prompts, completions, self.levels)

    def check(self) -> None:
        """See `Reward.check`."""
        super().check()
        if self.levels < 2:
            raise ConfigError(f"rewards: judge: levels {self.levels} must be at least 2")


class WinRateReward(JudgeReward):
    """The reward `judge_win_rate` with its settings."""

    name = "judge_win_rate"

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[float | None]:
        """The win rate of each completion; None for the only one of its prompt."""
        pairs = [
            (i, j)
            for i in range(len(prompts))
            for j in range(i + 1, len(prompts))
            if all(prompts[i] == prompts[k] for k in range(i + 1, j + 1))
        ]
        probabilities = self.judge().prefer(
            [prompts[i] for i, _ in pairs],
            [completions[i] for i, _ in pairs],
            [completions[j] for _, j in pairs],
        )
        wins: list[list[float]] = [[] for _ in prompts]
        for (i, j), p in zip(pairs, probabilities, strict=True):
            wins[i].append(p)
            wins[j].append(1 - p)
        return [sum(x) / len(x) if x else None for x in wins]


@rewards.register
@made_by(RatingReward)
def judge(
    prompts,
    completions,
    *,
    path: str | None = None,
    engine: Any = None,
    tokenizer: Any = None,
    levels: int = 10,
    instruction: str | None = None,
    chat: bool | None = None,
    device: str = "auto",
) -> list[float]:
    """The rating that a language model gives a completion, from 1 to levels: its expected value
    (d-RLAIF, arXiv 2309.00267).

    path: folder or hub id of the judge. engine: an engine of the judge's model in its place (in
    Python), with `tokenizer` where the engine has none. instruction: the grading criteria in the
    prompt. chat: ask in a chat turn (left out: where the prompts are chat messages).
    """
    reward = RatingReward(
        LoadedModels(),
        path=path,
        engine=engine,
        tokenizer=tokenizer,
        levels=levels,
        instruction=instruction,
        chat=chat,
        device=device,
    )
    return reward(prompts, completions)


@rewards.register
@made_by(WinRateReward)
def judge_win_rate(
    prompts,
    completions,
    *,
    path: str | None = None,
    engine: Any = None,
    tokenizer: Any = None,
    instruction: str | None = None,
    chat: bool | None = None,
    device: str = "auto",
) -> list[float | None]:
    """Mean probability that a judge prefers a completion to the others of its prompt, both orders
    asked; None for the only one of its prompt.

    Completions of a prompt stand side by side. The mean over them is 1/2. path, engine, tokenizer,
    instruction, chat: as of reward judge.
    """
    reward = WinRateReward(
        LoadedModels(),
        path=path,
        engine=engine,
        tokenizer=tokenizer,
        instruction=instruction,
        chat=chat,
        device=device,
    )
    return reward(prompts, completions)
