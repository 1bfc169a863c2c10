"""DICL-SAC: soft actor-critic with transitions that are forecast in context (Benechehab et al.,
arXiv 2410.11711, algorithm 2).

After each episode, windows of one finished episode are forecast. A forecast state follows its real
state, with an action that the policy sampled besides the one it took:

    (s_i, a~_i, r_i, s^_{i+1})      goes to a second replay

Each update takes a batch of the real replay and a smaller one of the second, whose losses are
multiplied by the ratio of their sizes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.control.environments import Environment
from posttrain.control.replay import Replay
from posttrain.control.sac import SACConfig, SoftActorCritic
from posttrain.dynamics.feature_maps import Kind
from posttrain.dynamics.forecaster import Forecaster
from posttrain.dynamics.trajectory import Learner, Trajectory, forecast_states
from posttrain.errors import CheckpointError, ConfigError
from posttrain.files import write_text_whole, written_whole

Numbers = NDArray[np.float64]
_FILE = "agent.pt"


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """Settings of a run of SAC or DICL-SAC.

    Attributes:
        num_steps: of the environment. batch_size: real transitions of an update.
        start_steps: with uniform actions, before the first update.
        updates_per_step: updates per step of an episode, all made after it: the policy does not
            change within an episode.
        capacity: of the replay.
        predicted_share: rows of an update from the second replay, as a share of batch_size; 0 is
            plain SAC.
        predict_after: steps before the first forecast. predict_every: steps per window.
        min_episodes: finished episodes of at least `window` + 1 steps before the first forecast.
        window: T_max, states of a window. burn_in: first forecasts of a window that are dropped.
        learner, map, num_components, point: of the forecasts.
        keep_share: share of a window's forecasts that is kept, those of least error.
        sac: settings of the agent.
        seed: of everything that is drawn.
    """

    num_steps: int = 10_000
    batch_size: int = 64
    start_steps: int = 1000
    updates_per_step: float = 1.0
    capacity: int = 100_000
    predicted_share: float = 0.0
    predict_after: int = 2000
    predict_every: int = 16
    min_episodes: int = 5
    window: int = 128
    burn_in: int = 0
    learner: Learner = "vicl"
    map: Kind = "pca"
    num_components: int | None = None
    point: Literal["mean", "mode"] = "mean"
    keep_share: float = 1.0
    sac: SACConfig = field(default_factory=SACConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("num_steps", "batch_size", "capacity", "predict_every", "min_episodes")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.predicted_share <= 1 or not 0 < self.keep_share <= 1:
            raise ConfigError(
                f"predicted_share is {self.predicted_share} and keep_share {self.keep_share}; "
                "shares are from 0 to 1, and something must be kept"
            )
        if not 0 <= self.burn_in < self.window - 2:
            raise ConfigError(
                f"burn_in is {self.burn_in} of a window of {self.window}; at least 3 states must "
                "be left"
            )


@dataclass(slots=True)
class ControlResult:
    """A learning curve.

    Attributes:
        returns: undiscounted, of each finished episode. steps: of the environment, at its end.
        num_predicted: transitions that were forecast. forecast_error: mean squared error of each
            episode's forecasts, standardised by the variance of the window; NaN without any.
    """

    returns: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    num_predicted: int = 0
    forecast_error: list[float] = field(default_factory=list)

    def mean_return(self, low: float = 0.0, high: float = 1.0) -> float:
        """Mean return of episodes that end in a part of the run, such as 0 to 0.3 of its steps."""
        last = self.steps[-1] if self.steps else 0
        part = [
            value
            for value, step in zip(self.returns, self.steps, strict=True)
            if low * last < step <= high * last
        ]
        return float(np.mean(part)) if part else float("nan")

    def save(self, folder: str | Path) -> Path:
        """Write control.json."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        values = asdict(self)
        values["forecast_error"] = [None if math.isnan(e) else e for e in self.forecast_error]
        write_text_whole(place / "control.json", json.dumps(values, indent=1))
        return place


class ControlRun:
    """A run of SAC, or of DICL-SAC where there is a forecaster. A checkpoint is taken between two
    episodes, and a resumed run equals one that was not stopped.

    Args:
        environment: what is acted in. forecaster: of predicted transitions; None where
            predicted_share is 0.

    Raises:
        ConfigError: a share of predicted rows without a forecaster, or a window that is longer
            than its context or than an episode.
    """

    def __init__(
        self,
        environment: Environment,
        config: ControlConfig = ControlConfig(),
        forecaster: Forecaster | None = None,
    ) -> None:
        if (config.predicted_share > 0) != (forecaster is not None):
            raise ConfigError(
                f"predicted_share is {config.predicted_share}; above 0 it needs a model that "
                "forecasts, and with 0 there is nothing to forecast"
            )
        limit = None if forecaster is None else forecaster.max_values
        if forecaster is not None and config.window + 1 > min(
            environment.max_steps, limit or environment.max_steps
        ):
            raise ConfigError(
                f"window is {config.window}; an episode of {environment.max_steps} steps and a "
                f"model of {limit} values leave room for less. Set it lower"
            )
        self.environment, self.config, self.forecaster = environment, config, forecaster
        actions = len(environment.low)
        self.agent = SoftActorCritic(
            environment.num_states, environment.low, environment.high, config.sac, seed=config.seed
        )
        self.real = Replay(config.capacity, environment.num_states, actions)
        self.predicted = Replay(config.capacity, environment.num_states, actions)
        self.draw = np.random.default_rng([config.seed, 7])
        self.result = ControlResult()
        self.step = 0
        self._episodes: list[dict[str, Numbers]] = []  # the newest, long enough for a window

    def run(
        self,
        output: str | Path | None = None,
        *,
        save_every: int = 10,
        resume: bool = False,
        stop: Callable[[ControlResult], bool] | None = None,
    ) -> ControlResult:
        """Act and learn until the steps are done.

        Args:
            output: a folder for checkpoints and control.json. save_every: episodes per checkpoint.
            resume: go on from the checkpoint in `output`, where there is one.
            stop: is asked after each episode whether to end; a checkpoint is left.
        """
        folder = None if output is None else Path(output)
        if resume and folder is not None and (folder / "checkpoint").is_dir():
            self.load(folder)
        while self.step < self.config.num_steps:
            self._learn(self._episode())
            ended = stop is not None and stop(self.result)
            if folder is not None and (ended or len(self.result.returns) % save_every == 0):
                self.save(folder)
            if ended:
                return self.result
        if folder is not None:
            self.save(folder)
            self.result.save(folder)
        return self.result

    def _episode(self) -> dict[str, Numbers]:
        """One episode by the present policy; its transitions are put into the replay."""
        world = self.environment
        rows: list[tuple[Any, ...]] = []
        number = len(self.result.returns)
        seeds = np.random.SeedSequence([self.config.seed, number]).generate_state(1)
        state = world.reset(seed=int(seeds[0]))
        while True:
            uniform = self.step + len(rows) < self.config.start_steps
            if uniform:
                action, other = self.draw.uniform(world.low, world.high, (2, len(world.low)))
            else:
                action, other = self.agent.act(np.stack([state, state])).astype(np.float64)
            after, reward, terminal, cut = world.step(action)
            rows.append((state, action, other, reward, after, float(terminal)))
            state = after
            if terminal or cut:
                break
        names = ("states", "actions", "others", "rewards", "next_states", "ends")
        columns = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
        self.real.add(**{name: columns[name] for name in names if name != "others"})
        self.step += len(rows)
        self.result.returns.append(float(columns["rewards"].sum()))
        self.result.steps.append(self.step)
        return columns

    def _learn(self, episode: dict[str, Numbers]) -> None:
        """Forecast windows, then make the updates of an episode."""
        length = len(episode["states"])
        if length >= self.config.window + 1:
            self._episodes = [*self._episodes, episode][-self.config.min_episodes :]
        errors = []
        ready = len(self._episodes) >= self.config.min_episodes
        if self.forecaster is not None and ready and self.step >= self.config.predict_after:
            for _ in range(max(1, length // self.config.predict_every)):
                errors.append(self._predict(self.forecaster))
        self.result.forecast_error.append(float(np.mean(errors)) if errors else float("nan"))
        if self.step < self.config.start_steps:
            return
        count = round(self.config.predicted_share * self.config.batch_size)
        for _ in range(max(1, round(self.config.updates_per_step * length))):
            batch = self.real.sample(self.config.batch_size, self.draw)
            if count and len(self.predicted):
                more = self.predicted.sample(count, self.draw)
                self.agent.update(batch, more, len(more) / len(batch))
            else:
                self.agent.update(batch)

    def _predict(self, forecaster: Forecaster) -> float:
        """Forecast a window of a finished episode; gives the error relative to the variance."""
        config = self.config
        episode = self._episodes[int(self.draw.integers(len(self._episodes)))]
        start = int(self.draw.integers(len(episode["states"]) - config.window + 1))
        part = {name: rows[start : start + config.window] for name, rows in episode.items()}
        forecast = forecast_states(
            forecaster,
            Trajectory(part["states"], part["actions"]),
            config.learner,
            map=config.map,
            num_components=config.num_components,
            seed=config.seed,
        )
        ahead = forecast.point(config.point)
        scale = np.maximum(part["states"].var(0), 1e-8)
        errors = ((ahead - part["next_states"]) ** 2 / scale).mean(1)
        # The last state has no value after it in the window, and is forecast as the others are.
        rows = np.arange(config.burn_in, config.window)
        if config.keep_share < 1:
            best = np.argsort(errors[rows], kind="stable")
            rows = rows[np.sort(best[: max(1, round(config.keep_share * len(rows)))])]
        self.predicted.add(
            states=part["states"][rows],
            actions=part["others"][rows],
            rewards=part["rewards"][rows],
            next_states=ahead[rows],
            ends=np.zeros(len(rows)),
        )
        self.result.num_predicted += len(rows)
        return float(errors[rows].mean())

    # -- checkpoints

    def save(self, folder: Path) -> None:
        """Write the checkpoint of the run between two episodes; it replaces the one before."""
        state = {
            "config": _plain(self.config),
            "step": self.step,
            "result": asdict(self.result),
            "agent": self.agent.state(),
            "real": self.real.state(),
            "predicted": self.predicted.state(),
            "draw": self.draw.bit_generator.state,
            "episodes": [
                {name: torch.from_numpy(rows) for name, rows in episode.items()}
                for episode in self._episodes
            ],
        }
        with written_whole(folder / "checkpoint") as partial:
            torch.save(state, partial / _FILE)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it is broken, or of a run with other settings. The number of steps
                may be raised.
        """
        place = folder / "checkpoint" / _FILE
        try:
            state: dict[str, Any] = torch.load(place, weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{place} cannot be read ({error}); start anew") from error
        ours = _plain(self.config)
        other = [k for k in ours if k != "num_steps" and ours[k] != state["config"].get(k)]
        if other:
            raise CheckpointError(
                f"{place} is of a run with other settings ({', '.join(other)}); resume with the "
                "same, or choose another folder"
            )
        self.step = state["step"]
        self.result = ControlResult(**state["result"])
        self.agent.restore(state["agent"])
        self.real.restore(state["real"])
        self.predicted.restore(state["predicted"])
        self.draw.bit_generator.state = state["draw"]
        self._episodes = [
            {name: rows.numpy() for name, rows in episode.items()} for episode in state["episodes"]
        ]


def _plain(config: ControlConfig) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(config)))
