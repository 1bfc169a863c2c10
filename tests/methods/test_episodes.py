"""Policy gradients on episodes of several turns: tools, environments, and episodes of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import checked, lines, stopped_and_resumed, told, without_weights

import posttrain as pt
from posttrain import registry
from posttrain.config import AgentConfig, Component, Limits, SamplingConfig
from posttrain.episodes.environments import Step, TextEnvironment
from posttrain.errors import ConfigError, EpisodeError
from posttrain.methods.episodes import Episodes, limits_of
from posttrain.types import Example, Sampling, Task, Trace

VOWELS = ["a", "e", "i", "o", "u"]

# A turn of random bytes ends at the first vowel, so that most episodes have several turns.
PLUGIN = '''
import posttrain as pt
from posttrain.episodes.environments import Step, TextEnvironment


@pt.environment
class Letters(TextEnvironment):
    """Wants letters up to m."""

    def __init__(self, *, num_turns: int = 3) -> None:
        self.num_turns = num_turns

    def reset(self, seed=0, **row):
        self.turn = 0
        return f" {seed % 7}"

    def step(self, action):
        self.turn += 1
        low = sum(c < "n" for c in action) / max(len(action), 1)
        return Step(f" {self.turn}", reward=low, done=self.turn == self.num_turns)


@pt.environment
def broken():
    """Cannot be reset."""
    class Broken(TextEnvironment):
        def reset(self, **row):
            raise KeyError("board")
        def step(self, action):
            return Step(None)
    return Broken()
'''
ON_LETTERS: dict[str, Any] = {
    "task": {"name": "arithmetic", "num_examples": 6, "num_steps": 1},
    "environment": {"name": "Letters", "num_turns": 3},
    "agent": {"chat": False},
    "rewards": ["environment"],
    "batch_size": 2,
    "sampling": {"max_tokens": 24, "stop": VOWELS},
    "learning_rate": 1e-3,
    "max_steps": 2,
}
GRPO: dict[str, Any] = {"method": "grpo", "num_generations": 4, **ON_LETTERS}
PPO: dict[str, Any] = {"method": "ppo", "num_generations": 2, **ON_LETTERS}


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Recipe keys that bring the environment; it is forgotten behind the tests of this file."""
    path = tmp_path_factory.mktemp("plugin") / "letters.py"
    path.write_text(PLUGIN)
    yield {"plugins": [str(path)]}
    for known in registry.REGISTRIES.values():
        if path in known._plugins:
            known._plugins.remove(path)


def test_grpo_learns_on_the_turns_of_an_environment(
    letters: dict[str, Any], run_recipe: Callable[..., Path]
) -> None:
    folder = run_recipe(**GRPO, **letters)
    for row in told(folder):
        assert 1 < row["episodes/num_turns"] <= 3 and row["episodes/failed"] == 0
        assert row["rewards/environment/mean"] == pytest.approx(row["reward"])
        reasons = [v for k, v in row.items() if k.startswith("episodes/stop/")]
        assert sum(reasons) == pytest.approx(1)
        assert row["sampling/sampling_logp_difference/mean"] < 1e-4
        assert row["grad_norm"] > 0
    assert (folder / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("method", "advantage"),
    [(GRPO, "gigpo"), (GRPO, "turn_returns"), (PPO, "gae"), (PPO, "turn_gae")],
)
def test_credit_over_turns(
    method: dict[str, Any], advantage: str, letters: dict[str, Any], run_recipe: Callable[..., Path]
) -> None:
    folder = run_recipe(**{**method, "advantage": advantage, "max_steps": 1, **letters})
    (row,) = told(folder)
    assert row["grad_norm"] > 0


def test_an_environment_that_fails_stops_the_run(
    letters: dict[str, Any], run_recipe: Callable[..., Path]
) -> None:
    with pytest.raises(EpisodeError, match="8 of 8 .* KeyError: 'board'"):
        run_recipe(**{**GRPO, **letters, "environment": "broken"})


@pytest.mark.parametrize("raw", [GRPO, {**PPO, "num_minibatches": 2}], ids=["grpo", "ppo"])
def test_resume_is_exact(
    raw: dict[str, Any], letters: dict[str, Any], run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Stopped in the middle of multi-turn training and gone on with: the same weights, byte for
    byte, the same metrics and the same episodes.
    """
    # On a busy machine a call may take long, and the batches of the engine follow its timing.
    raw = {**raw, **letters, "max_steps": 4, "agent": {"chat": False, "gather_seconds": 20}}
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 2, **raw)
    assert len(told(whole)) == 4
    for one, other in zip(told(whole), told(half), strict=True):
        assert one == other
    assert lines(whole / "rollouts.jsonl") == lines(half / "rollouts.jsonl")
    for name in ["model"] + ["critic"] * (raw["method"] == "ppo"):
        files = [folder / name / "model.safetensors" for folder in (whole, half)]
        if not files[0].exists():  # a critic lies in the last checkpoint
            files = [
                next(folder.glob(f"checkpoint-*/{name}/model.safetensors"))
                for folder in (whole, half)
            ]
        assert files[0].read_bytes() == files[1].read_bytes(), name


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"environment": {"name": "Lettres"}}, "Letters"),
        ({"environment": {"name": "Letters", "turns": 3}}, "num_turns"),
        ({"environment": None, "rewards": ["task"]}, "agent"),
        ({"environment": None, "agent": {}}, "environment"),
        ({"agent": {"max_turns": -1}}, "max_turns"),
        ({"agent": {"max_turn": 1}}, "max_turns"),
        ({"given_steps": 3, "losses": ["reinforce", "given_nll"]}, "given_steps"),
    ],
)
def test_what_cannot_work_is_refused_before_weights(
    change: dict[str, Any],
    field: str,
    letters: dict[str, Any],
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_weights(monkeypatch)
    with pytest.raises(ConfigError, match=field):
        checked(tmp_path, tiny_folder, **{**GRPO, **letters, **change})


def test_the_calculator_is_named_in_a_recipe(tmp_path: Path, tiny_folder: Path) -> None:
    raw = {
        **GRPO,
        "task": {"name": "calculator", "num_examples": 4},
        "environment": "calculator",
        "agent": {"max_turns": 4, "chat": False},
        "rewards": ["task"],
    }
    shown = checked(tmp_path, tiny_folder, **raw)
    assert "calculator, at most 4 turns" in shown


# -- in Python


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    return a + b


class Counter(TextEnvironment):
    def reset(self, **row: Any) -> None:
        self.left = 2

    def step(self, action: str) -> Step:
        self.left -= 1
        return Step("again ", reward=float(len(action)), done=self.left == 0)


def rows() -> Task:
    examples = [Example(f"say {i}: ", id=str(i)) for i in range(4)]
    return Task("rows", examples, lambda t, e: 0.0, str, unscored="rows without an answer")


def test_fit_on_a_class_and_on_an_episode_of_ones_own(tiny_folder: Path, tmp_path: Path) -> None:
    model = pt.load(str(tiny_folder))
    settings: dict[str, Any] = {
        "num_generations": 3,
        "batch_size": 2,
        "sampling": SamplingConfig(max_tokens=12, stop=VOWELS),
    }

    async def twice(example: Example, ask: Any, tools: Any) -> Trace:
        """Two completions, the second behind the first."""
        ids = tuple(model.tokenizer.encode(str(example.prompt)))
        turns = []
        for _ in range(2):
            (sample,) = await ask(ids)
            turns.append(pt.Turn(ids, sample, model.tokenizer.decode(sample.ids)))
            ids = turns[-1].ids
        return Trace(turns)

    def lengths(traces: list[Trace]) -> list[float]:
        return [float(t.num_sampled) for t in traces]

    result = pt.fit(
        model,
        pt.grpo(rows(), rewards=["environment"], environment=Counter, **settings),
        steps=1,
        output=tmp_path / "class",
    )
    assert result.metrics[-1]["episodes/num_turns"] > 1
    result = pt.fit(
        model,
        pt.grpo(rows(), rewards=[lengths], environment=twice, **settings),
        steps=1,
        output=tmp_path / "own",
    )
    assert result.metrics[-1]["episodes/num_turns"] == 2


def test_kinds_of_environments() -> None:
    config = AgentConfig()
    assert Episodes.of(None, config) is None

    async def own(example: Example, ask: Any, tools: Any) -> Trace:
        return Trace([])

    for given, name in (
        (Counter, "Counter"),
        (Component("calculator"), "calculator"),
        ({"a": Counter, "b": "calculator"}, "a, b"),
        ([add], "add"),
        (own, "own"),
    ):
        episodes = Episodes.of(given, config)
        assert episodes is not None and episodes.name == name
        assert name in episodes.text()
    for wrong in ([], [3], {}, "no_such_environment"):
        with pytest.raises(ConfigError):
            Episodes.of(wrong, config)  # type: ignore[arg-type]


def test_lengths_of_episodes() -> None:
    sampling = Sampling(max_tokens=10)
    for config, most in (
        (AgentConfig(max_turns=3), 30),
        (AgentConfig(max_turns=3, max_tokens=20), 20),
        (AgentConfig(max_turns=3, max_tokens=50), 30),
    ):
        episodes = Episodes.of(Counter, config)
        assert episodes is not None and episodes.max_length(sampling) == most
    assert limits_of(AgentConfig(max_turns=3, timeout_seconds=2.0)).timeout_seconds == 2.0
    with pytest.raises(ConfigError, match="max_concurrent"):
        limits_of(AgentConfig(max_concurrent=-1))


def test_a_task_that_cannot_grade_needs_another_reward() -> None:
    with pytest.raises(ConfigError, match="environment"):
        pt.grpo(rows(), environment=Counter)


def test_a_check_runs_within_an_event_loop(tiny_folder: Path) -> None:
    """As in a notebook."""
    from posttrain.models.spec import NamedModel

    episodes = Episodes.of(Counter, AgentConfig())
    assert episodes is not None
    spec = NamedModel(pt.Model(str(tiny_folder)))

    async def cell() -> None:
        episodes.check(spec, rows())

    asyncio.run(cell())
    assert episodes.sampler(spec.tokenizer, rows(), Limits()).max_failed == 0.5
