"""A judge that reasons before its verdict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from posttrain.config import EndpointConfig
from posttrain.engines.endpoint import Written
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.models.load import load_model
from posttrain.rewards.base import RewardSet
from posttrain.rewards.reasoned_judge import reasoned_judge, verdict_of
from posttrain.types import Request, Sample


class Reasons:
    """An engine whose k-th reason is the digit k, and whose yes has probability 0.1 k after it.

    stopped: whether it writes "Verdict:" itself.
    """

    weights_version, model = 0, None

    def __init__(self, tokenizer: Any, *, stopped: bool = True) -> None:
        self.tokenizer, self.stopped = tokenizer, stopped
        self.requests: list[Request] = []
        self.contexts: list[str] = []

    def generate(self, requests: list[Request]) -> list[list[Sample]]:
        self.requests += requests
        return [[self._sample(k) for k in range(1, r.n + 1)] for r in requests]

    def _sample(self, k: int) -> Sample:
        ids = self.tokenizer.encode(f" {k} " + ("Verdict:" if self.stopped else ""))
        reason = "stop" if self.stopped else "length"
        return Sample(
            ids, [0.0] * len(ids), [0.0] * len(ids), reason, "Verdict:" if self.stopped else None
        )

    def score(self, sequences: Any) -> list[list[float]]:
        out = []
        for ids, start in sequences:
            before, reply = self.tokenizer.decode(ids[:start]), self.tokenizer.decode(ids[start:])
            self.contexts.append(before)
            p = 0.1 * int(before.rsplit("Verdict:", 1)[0].split()[-1])
            p = p if reply.strip() == "yes" else 1 - p
            out.append([math.log(p)] + [0.0] * (len(ids) - start - 1))
        return out


@pytest.mark.parametrize("stopped", [True, False])
def test_the_mean_over_reasons(stopped: bool, tiny_tokenizer: Any) -> None:
    """Reasons 1, 2, 3 give 0.1, 0.2, 0.3; a judge that was cut off is asked all the same."""
    engine = Reasons(tiny_tokenizer, stopped=stopped)
    values = reasoned_judge(
        ["p", "q"], ["a", "b"], num_reasons=3, engine=engine, tokenizer=tiny_tokenizer
    )
    assert values == pytest.approx([0.2, 0.2])
    assert all(context.rstrip().endswith("Verdict:") for context in engine.contexts)
    assert [r.n for r in engine.requests] == [3, 3]


def test_a_text_has_one_score(tiny_folder: Path) -> None:
    """Whatever else is judged with it, and however often."""
    model = load_model(tiny_folder)
    engine = TorchEngine(model)
    settings: dict[str, Any] = {"num_reasons": 2, "max_tokens": 6, "engine": engine}
    together = reasoned_judge(["p", "q"], ["a", "b"], **settings)
    assert reasoned_judge(["q"], ["b"], **settings) == pytest.approx([together[1]], abs=1e-5)
    other = reasoned_judge(["q"], ["b"], **settings, seed=1)
    assert other != pytest.approx([together[1]], abs=1e-7)
    assert all(0 < value < 1 for value in together)


def test_verdicts_are_read_from_the_end() -> None:
    assert verdict_of("Verdict: no, wait. VERDICT:yes") == "yes"
    assert verdict_of("Verdict: yesterday") is None and verdict_of("") is None


def test_a_server_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def __init__(self, config: Any) -> None:
            self.config = config

        def complete(self, prompts: Any, sampling: Any, *, n: int, seeds: Any) -> Any:
            texts = ["Fine. Verdict: yes", "Verdict: no", "I cannot say", "Verdict: yes"][:n]
            return [[Written(text, "stop") for text in texts] for _ in prompts]

    monkeypatch.setattr("posttrain.rewards.judge.Endpoint", Server)
    server = EndpointConfig("http://localhost:9/v1", "m")
    assert reasoned_judge(["p"], ["a"], num_reasons=4, endpoint=server) == [0.5]


@pytest.mark.parametrize("settings", [{"num_reasons": 0}, {"max_tokens": 0}, {"path": "there"}])
def test_wrong_settings_are_refused(settings: dict[str, Any], tiny_tokenizer: Any) -> None:
    engine = Reasons(tiny_tokenizer)
    with pytest.raises(ConfigError):
        RewardSet([{"name": "reasoned_judge", "engine": engine, **settings}]).self_test([])
