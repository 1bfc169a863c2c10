"""Turns of an episode: what is trained, in which context, and computed once.

Losses and gradients are those of plain padded forwards of each turn in its own context.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from posttrain.averages import Averages
from posttrain.config import Component, CreditConfig
from posttrain.data.forest import Batch
from posttrain.inputs import ROLLOUTS
from posttrain.models.language_model import LanguageModel
from posttrain.sources.credit import Creditor
from posttrain.sources.rollouts import RolloutSource
from posttrain.sources.trace_sequences import (
    branches,
    set_streams,
    trace_sequences,
    trained_tokens,
    turn_numbers,
)
from posttrain.training.objective import Objective
from posttrain.types import Example, Sample, Sampling, Trace, TraceGroup, Turn
from posttrain.world import World

VOCABULARY = 53
PROMPT = (7, 8, 9, 10, 11)


def sample(*ids: int) -> Sample:
    return Sample(list(ids), [-1.0] * len(ids), [-1.0] * len(ids), "stop")


def continued(*turns: tuple[list[int], list[int]], prompt: tuple[int, ...] = PROMPT) -> Trace:
    """A trace in which each turn is (new context, completion), and nothing is rewritten."""
    before: tuple[int, ...] = prompt
    made = []
    for new, completion in turns:
        made.append(Turn((*before, *new), sample(*completion), ""))
        before = made[-1].ids
    return Trace(made)


def rewritten() -> Trace:
    """Three turns; the second one's context drops the first half of the first completion (a
    thought), and the third continues the second.
    """
    first = Turn(PROMPT, sample(20, 21, 22, 23), "")
    second = Turn((*PROMPT, 22, 23, 30, 31), sample(24, 25), "")
    third = Turn((*second.ids, 32), sample(26, 27, 28), "")
    return Trace([first, second, third])


def test_a_continued_history_is_one_sequence() -> None:
    trace = continued(([], [20, 21]), ([30], [22]), ([31, 32], [23, 24]))
    (sequence,) = trace_sequences(trace, "row", number=3)
    assert sequence.ids.tolist() == [*PROMPT, 20, 21, 30, 22, 31, 32, 23, 24]
    marks = [0] * 5 + [1, 1, 0, 1, 0, 0, 1, 1]
    assert sequence.loss_mask.tolist() == [bool(m) for m in marks]
    assert sequence.row == "row" and sequence.trace == 3
    assert turn_numbers(trace).tolist() == [0, 0, 1, 2, 2]


def test_a_rewritten_history_is_a_branch() -> None:
    trace = rewritten()
    assert [len(turns) for turns in branches(trace)] == [1, 2]
    first, second = trace_sequences(trace)
    assert first.ids.tolist() == [*PROMPT, 20, 21, 22, 23]
    assert second.ids[second.loss_mask].tolist() == [24, 25, 26, 27, 28]
    assert int(first.loss_mask.sum() + second.loss_mask.sum()) == trace.num_sampled


def test_turns_that_are_not_trained_are_context() -> None:
    trace = continued(([], [20, 21]), ([30], [22]))
    trace.turns[0].is_trained = False
    (sequence,) = trace_sequences(trace)
    assert sequence.ids[sequence.loss_mask].tolist() == [22]
    (measured,) = trace_sequences(trace, every_turn=True)
    assert measured.ids[measured.loss_mask].tolist() == [20, 21, 22]
    assert trained_tokens(trace).tolist() == [False, False, True]


def test_ids_that_were_not_sampled_are_context() -> None:
    trace = continued(([], [20, 21]), ([30], [22]))
    trace.turns[0].given = (False, True)
    (sequence,) = trace_sequences(trace)
    assert sequence.ids[sequence.loss_mask].tolist() == [20, 22]
    (measured,) = trace_sequences(trace, every_turn=True)
    assert measured.ids[measured.loss_mask].tolist() == [20, 21, 22]
    assert trained_tokens(trace).tolist() == [True, False, True]


def test_streams_follow_the_sampled_tokens() -> None:
    trace = rewritten()
    sequences = trace_sequences(trace, every_turn=True)
    set_streams(sequences, {"advantages": np.arange(1.0, 10.0)})
    first, second = (s.streams["advantages"] for s in sequences)
    assert first.tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4]
    assert second.tolist() == [0] * 9 + [5, 6, 0, 7, 8, 9]


def test_a_failed_trace_without_turns_has_no_sequence() -> None:
    assert trace_sequences(Trace([], error="reset: no board")) == []
    assert len(turn_numbers(Trace([]))) == 0 and len(trained_tokens(Trace([]))) == 0


# -- against plain forwards


def in_its_own_precision(norm: torch.nn.Module, added: float) -> None:
    """Let a norm compute in the precision of its input, where its class rounds to float32."""
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    assert epsilon is not None

    def forward(x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
        return x * scale * (added + norm.weight)

    norm.forward = forward  # type: ignore[method-assign]


def tiny(name: str) -> Any:
    """A random model in float64."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "pad_token_id": None,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    if name == "Gemma3Text":
        settings |= {"sliding_window": 5, "query_pre_attn_scalar": 8}
        settings |= {"layer_types": ["sliding_attention", "full_attention"]}
    config = getattr(transformers, f"{name}Config")(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float64)
        for parameter in hf.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    for module in hf.modules():
        if type(module).__name__.endswith("RMSNorm"):
            in_its_own_precision(module, 1.0 if name.startswith("Gemma") else 0.0)
    return hf.eval()


def language_model(name: str) -> LanguageModel:
    model = LanguageModel(tiny(name), None)  # type: ignore[arg-type]
    model.check_head()
    model.share_trunks()
    assert model.shares_trunks, model.why_unshared
    return model


def rewarded(trace: Trace, reward: float | None) -> Trace:
    trace.reward = reward
    return trace


def ragged_groups(history: str) -> list[TraceGroup]:
    """Two prompts with four and three traces: of one turn and of several, one of them failed, and
    one with a turn that is not trained.
    """
    several = continued(([], [20, 21, 22, 23]), ([22, 30, 31], [24, 25]), ([32], [26, 27, 28]))
    odd = continued(([], [20, 21]), ([33], [29, 30]), ([34], [31]))
    odd.turns[1].is_trained = False
    failed = Trace(continued(([], [20, 40])).turns, error="board: KeyError")
    traces = [
        rewarded(rewritten() if history == "rewritten" else several, 1.0),
        rewarded(continued(([], [20, 21, 22])), 0.0),
        rewarded(odd, 0.5),
        failed,
    ]
    other = [
        rewarded(continued(([], [5, 6]), ([9], [7]), prompt=(3, 4)), 2.0),
        rewarded(continued(([], [5, 8, 8, 8]), prompt=(3, 4)), -1.0),
        rewarded(Trace([Turn((3, 4), sample(5, 6), ""), Turn((3, 4, 6), sample(2), "")]), 0.25),
    ]
    return [TraceGroup(Example("a"), PROMPT, traces), TraceGroup(Example("b"), (3, 4), other)]


def source_of(groups: list[TraceGroup], model: Any, advantage: str = "group_mean") -> RolloutSource:
    collector: Any = SimpleNamespace(
        sampling=Sampling(),
        seed=0,
        given_steps=0,
        world=World.alone(),
        collect=lambda step: groups,
        metrics=lambda *_: Averages(),
    )
    credit = Creditor(
        Component(advantage),
        CreditConfig(),
        asked=(),
        reward_weights={"r": 1.0},
        token_text=str,
        keep_old=True,
    )
    return RolloutSource(collector, model=model, credit=credit)


def turn_logprobs(hf: Any, turns: list[Turn]) -> list[torch.Tensor]:
    """Log-probs of each turn's completion by one plain forward of padded rows, each turn in its
    own context.
    """
    longest = max(len(turn.ids) for turn in turns)
    rows = [[*turn.ids, *[0] * (longest - len(turn.ids))] for turn in turns]
    mask = [[1] * len(t.ids) + [0] * (longest - len(t.ids)) for t in turns]
    logits = hf(input_ids=torch.tensor(rows), attention_mask=torch.tensor(mask), use_cache=False)
    every = torch.log_softmax(logits.logits, -1)
    logprobs = []
    for row, turn in zip(every, turns, strict=True):
        places = torch.arange(len(turn.context_ids), len(turn.ids)) - 1
        logprobs.append(row[places, torch.tensor(turn.sample.ids)])
    return logprobs


def expected_loss(hf: Any, groups: list[TraceGroup], level: str) -> torch.Tensor:
    """GRPO's loss by hand, the ratio 1 at the start of a step: mean over the tokens of a trace's
    trained turns, then over traces.
    """
    losses = []
    for group in groups:
        traces = [t for t in group.traces if t.error is None]
        rewards = np.array([t.reward for t in traces], dtype=float)
        advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        for trace, advantage in zip(traces, advantages, strict=True):
            turns = [turn for turn in trace.turns if turn.is_trained]
            logprobs = torch.cat(turn_logprobs(hf, turns))
            difference = logprobs - logprobs.detach()
            ratio = (difference.mean() if level == "sequence" else difference).exp()
            losses.append(-(ratio * np.float32(advantage).item()).mean())
    return torch.stack(losses).mean()


def distinct_tokens(groups: list[TraceGroup]) -> int:
    """Distinct (prompt, beginning) of everything that is trained on."""
    count = 0
    for group in groups:
        sound = [t for t in group.traces if t.error is None]
        ids = [turn.ids for trace in sound for turn in trace.turns]
        count += len({row[: n + 1] for row in ids for n in range(len(row))})
    return count


@pytest.mark.parametrize("history", ["continued", "rewritten"])
@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Gemma3Text"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_losses_and_gradients_equal_plain_forwards(name: str, history: str, level: str) -> None:
    model, hf = language_model(name), tiny(name)
    groups = ragged_groups(history)
    (batch,) = source_of(groups, model).batches(0)
    assert batch.num_tokens == distinct_tokens(groups)
    objective = Objective(
        [Component("clipped", {"level": level})], aggregation="sequence_mean", carries=ROLLOUTS
    )
    loss = total_loss(model, objective, batch, None)
    expected = expected_loss(hf, groups, level)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-9)
    compare_gradients(model.hf, hf)
    for max_tokens in (30, 12):  # micro-batches do not part the branches of a trace
        model.hf.zero_grad()
        assert total_loss(model, objective, batch, max_tokens) == pytest.approx(loss, abs=1e-9)
        compare_gradients(model.hf, hf)


def total_loss(
    model: LanguageModel, objective: Objective, batch: Batch, max_tokens: int | None
) -> float:
    totals = objective.denominators(batch)
    total = 0.0
    for micro in batch.split(max_tokens):
        # float32 streams hold the old log-probs rounded; the ratio of a first update is 1.
        micro.streams.pop("old_logprobs")
        loss, _ = objective(model.forward(micro, objective.needs), micro, totals)
        loss.backward()
        total += loss.item()
    return total


def compare_gradients(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for (label, left), right in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert left.grad is not None and right.grad is not None, label
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-9, atol=1e-9, msg=label)


def test_old_log_probs_are_those_of_each_turn_in_its_context() -> None:
    model = language_model("Qwen3")
    groups = ragged_groups("rewritten")
    (batch,) = source_of(groups, model).batches(0)
    hf = tiny("Qwen3")
    with torch.no_grad():
        traces = [t for group in groups for t in group.traces if t.error is None]
        rows = [turn_logprobs(hf, [u for u in t.turns if u.is_trained]) for t in traces]
    expected = torch.cat([numbers for row in rows for numbers in row])
    old = np.concatenate([tree.streams["old_logprobs"] for tree in batch.trees])
    np.testing.assert_allclose(old, expected.numpy(), rtol=1e-6)


def test_a_failed_trace_is_in_no_baseline_and_no_average() -> None:
    """Rewards 1, 0 and 0.5 have the mean 0.5 and the deviation 0.5, whatever failed beside them."""
    groups = ragged_groups("continued")
    (batch,) = source_of(groups, language_model("Llama")).batches(0)
    assert [t.advantage for t in groups[0].traces] == pytest.approx([1, -1, 0, 0], abs=1e-3)
    assert batch.num_traces == 6 and batch.trees[0].num_traces == 3
