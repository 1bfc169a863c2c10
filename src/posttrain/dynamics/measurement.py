"""`pt.dicl_forecast`, `pt.dicl_evaluate`, `pt.dicl_calibrate`: series and trajectories in, figures
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.config import ModelConfig
from posttrain.dynamics.baselines import NormalForecast, gaussian_forecast, network_forecast
from posttrain.dynamics.calibration import (
    fit_temperature,
    ks_uniform,
    negative_log_likelihood,
    reliability,
    sample_quantiles,
)
from posttrain.dynamics.feature_maps import Kind
from posttrain.dynamics.forecaster import Forecaster, How
from posttrain.dynamics.grid import GridDistribution
from posttrain.dynamics.results import Calibration, DynamicsEvaluation, LearnerScore, SeriesForecast
from posttrain.dynamics.trajectory import Learner, Trajectory, forecast_states
from posttrain.dynamics.trajectory_files import read_trajectories
from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.statistics import mean_interval, paired_bootstrap
from posttrain.model_config import model_name
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec, model_spec

Numbers = NDArray[np.float64]
ModelLike = ModelSpec | LanguageModel | ModelConfig | str | Path
Trajectories = str | Path | Sequence[Trajectory | ArrayLike]
BASELINES = ("gaussian", "network")
LEARNERS = ("vicl", "dicl_s", "dicl_sa")
_LEAST_STEPS = 16


def dicl_forecast(
    model: ModelLike,
    series: ArrayLike,
    *,
    steps: int = 20,
    how: How = "mean",
    num_paths: int = 1,
    digits: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> SeriesForecast:
    """Continue a series, or several columns of one, by a language model that reads them as digits.

    Args:
        model: loaded, a folder, a hub id, or "embedded-dynamics". Its tokenizer needs a token per
            digit or per integer.
        series: [T], or [T, D], each column by itself. Where it is longer than the model's context,
            the last values count.
        steps: values to add. how: what is appended: the mean, the mode, or a sample.
        num_paths: continuations, with "sample".
        digits: of a number; None is what the tokenizer suggests.
        temperature: distributions are raised to the power 1 / temperature.
        seed: of the samples.

    Raises:
        ConfigError, DataError: what cannot be forecast.
        ModelError: the tokenizer writes numbers otherwise.
    """
    values = Trajectory(np.asarray(series, dtype=np.float64)).states
    if steps < 1:
        raise ConfigError(f"steps is {steps}; there must be at least 1 to forecast")
    forecaster = Forecaster(_loaded(model), digits=digits, temperature=temperature)
    room = forecaster.max_values
    if room is not None and steps >= room:
        raise ConfigError(f"steps is {steps}; the model's context holds {room} values in all")
    context = values if room is None else values[-(room - steps) :]
    columns = list(context.T)
    laws = forecaster.forecast(columns)
    paths = forecaster.continued(columns, steps, how=how, num_paths=num_paths, seed=seed)
    return SeriesForecast(
        context,
        np.stack(paths, -1),
        np.stack([law[-1:].quantile(0.05) for law in laws], -1)[0],
        np.stack([law[-1:].quantile(0.95) for law in laws], -1)[0],
        forecaster.cost,
    )


def dicl_evaluate(
    model: ModelLike,
    data: Trajectories,
    *,
    learners: Sequence[str] = ("vicl", "dicl_s", "gaussian", "network"),
    window: int | None = None,
    num_windows: int = 20,
    burn_in: int = 16,
    map: Kind = "pca",
    num_components: int | None = None,
    num_samples: int = 100,
    digits: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> DynamicsEvaluation:
    """One-step forecasts of trajectories in context, beside baselines, on the same windows.

        result = pt.dicl_evaluate("embedded-dynamics", "expert_pendulum.npz")
        print(result)

    The error is the mean squared error over the variance of the window. Quantiles of the truth are
    taken among samples. The network is trained on the first half of each window, and all are
    compared on the steps of the second half that lie behind `burn_in`.

    Args:
        model: as in `dicl_forecast`.
        data: trajectories, or a file of them: .npz with obs, actions, rewards and episode_starts,
            or .csv.
        learners: vicl, dicl_s, dicl_sa, and the baselines gaussian (moments of the context so far)
            and network (4 layers of 128, trained on the context). Others are compared with the
            first.
        window: steps of a context; None is the longest that model and trajectories have room for.
        num_windows: drawn at random from all trajectories. burn_in: first forecasts of a window
            that do not count.
        map, num_components: of DICL: "pca", "ica", "autoencoder", and how many are forecast.
        num_samples: per step, for quantiles.
        digits, temperature: of the forecasts. seed: of windows, samples, maps and networks.

    Raises:
        ConfigError, DataError: what cannot be measured.
    """
    episodes = _trajectories(data)
    known = (*LEARNERS, *BASELINES)
    wrong = [name for name in learners if name not in known]
    if wrong or not learners:
        raise ConfigError(f"learners are {list(learners)}; choose from {', '.join(known)}")
    loaded = _loaded(model)
    forecaster = Forecaster(loaded, digits=digits, temperature=temperature)
    length = _window_length(window, episodes, forecaster)
    first = max(burn_in, length // 2)
    if not 0 <= first < length - 2 or num_windows < 2:
        raise ConfigError(
            f"window {length}, burn_in {burn_in}, num_windows {num_windows}; at least 2 windows, "
            "with 2 steps behind burn_in"
        )
    draw = np.random.default_rng([seed, 69])
    windows = _windows(episodes, length, num_windows, draw)
    tables: dict[str, list[Numbers]] = {name: [] for name in learners}
    quantiles: dict[str, list[Numbers]] = {name: [] for name in learners}
    passes: dict[str, int] = dict.fromkeys(learners, 0)
    for number, part in enumerate(windows):
        truth, scale = part.states[1:], np.maximum(part.states.var(0), 1e-12)
        for name in learners:
            before = forecaster.cost.passes
            if name in BASELINES:
                normal = _baseline(name, part, length // 2, seed + number)
                ahead, samples = normal.mean[:-1], normal.samples(num_samples, draw)[:, :-1]
            else:
                forecast = forecast_states(
                    forecaster, part, _learner(name), map=map, num_components=num_components,
                    seed=seed,
                )  # fmt: skip
                ahead, samples = forecast.point()[:-1], forecast.samples(num_samples, draw)[:, :-1]
            passes[name] += forecaster.cost.passes - before
            tables[name].append(((ahead - truth) ** 2 / scale).mean(1))
            quantiles[name].append(sample_quantiles(samples, truth, draw)[first:])
    scores = _scores(learners, tables, quantiles, passes, first, seed)
    name = model_name(str(loaded.origin.path)) if loaded.origin is not None else repr(loaded)
    return DynamicsEvaluation(name, length, first, num_windows, scores)


def dicl_calibrate(
    model: ModelLike,
    data: Trajectories,
    *,
    window: int | None = None,
    num_windows: int = 20,
    burn_in: int = 16,
    digits: int | None = None,
    seed: int = 0,
) -> Calibration:
    """The temperature at which a model's forecasts are likeliest on one half of the windows, and
    calibration on the other half, before and after.

    Args:
        model, data, window, num_windows, burn_in, digits, seed: as in `dicl_evaluate`.
    """
    episodes = _trajectories(data)
    forecaster = Forecaster(_loaded(model), digits=digits)
    length = _window_length(window, episodes, forecaster)
    if num_windows < 2 or not 0 <= burn_in < length - 1:
        raise ConfigError(
            f"num_windows {num_windows}, burn_in {burn_in} of a window of {length}; at least 2 "
            "windows, one for each half, and a step behind burn_in"
        )
    draw = np.random.default_rng([seed, 70])
    laws: list[GridDistribution] = []
    truth: list[Numbers] = []
    halves: list[int] = []
    for number, part in enumerate(_windows(episodes, length, num_windows, draw)):
        for law, column in zip(
            forecaster.forecast(list(part.states.T)), part.states.T, strict=True
        ):
            laws.append(law[burn_in : length - 1])
            truth.append(column[burn_in + 1 :])
            halves.append(number % 2)
    fitted = [i for i, half in enumerate(halves) if half == 0]
    held = [i for i, half in enumerate(halves) if half == 1]
    temperature = fit_temperature([laws[i] for i in fitted], [truth[i] for i in fitted])
    values = [truth[i] for i in held]

    def measured(scaled: list[GridDistribution]) -> dict[str, Any]:
        u = np.concatenate([law.cdf(x) for law, x in zip(scaled, values, strict=True)])
        diagram = reliability(u)
        return {
            "nll": negative_log_likelihood(scaled, values),
            "ks": ks_uniform(u),
            "ece": diagram.ece,
            "coverage": diagram.coverage.tolist(),
        }

    before = measured([laws[i] for i in held])
    after = measured([laws[i].tempered(temperature) for i in held])
    return Calibration(temperature, before, after, reliability([0.5]).levels.tolist())


def _scores(
    learners: Sequence[str],
    tables: Mapping[str, list[Numbers]],
    quantiles: Mapping[str, list[Numbers]],
    passes: Mapping[str, int],
    first: int,
    seed: int,
) -> list[LearnerScore]:
    scores = []
    base = np.array([rows[first:].mean() for rows in tables[learners[0]]])
    for name in learners:
        errors = np.array(tables[name])
        counted = errors[:, first:].mean(1)
        u = np.concatenate(quantiles[name])
        diagram = reliability(u)
        scores.append(
            LearnerScore(
                name,
                mean_interval(counted, are_shares=False),
                None if name == learners[0] else paired_bootstrap(base, counted, seed=seed),
                ks_uniform(u),
                diagram.ece,
                diagram.levels.tolist(),
                diagram.coverage.tolist(),
                _by_context(errors) if name != "network" else [],
                passes[name],
            )
        )
    return scores


def _by_context(errors: Numbers) -> list[tuple[float, float]]:
    """Mean error at contexts of 2 to 3, 4 to 7, ... values: (first of them, error)."""
    points = []
    low = 2
    while low <= errors.shape[1]:
        points.append((float(low), float(errors[:, low - 1 : 2 * low - 1].mean())))
        low *= 2
    return points


def _baseline(name: str, part: Trajectory, half: int, seed: int) -> NormalForecast:
    if name == "gaussian":
        return gaussian_forecast(part)
    return network_forecast(part[:half], part, seed=seed)


def _learner(name: str) -> Learner:
    return {"vicl": "vicl", "dicl_s": "dicl_s"}.get(name, "dicl_sa")  # type: ignore[return-value]


def _loaded(model: ModelLike) -> LanguageModel:
    return model if isinstance(model, LanguageModel) else model_spec(model).load()


def _trajectories(data: Trajectories) -> list[Trajectory]:
    if isinstance(data, str | Path):
        return read_trajectories(data)
    episodes = [d if isinstance(d, Trajectory) else Trajectory(np.asarray(d)) for d in data]
    if not episodes:
        raise DataError("there are no trajectories; give at least one, or a file of them")
    return episodes


def _window_length(
    window: int | None, episodes: Sequence[Trajectory], forecaster: Forecaster
) -> int:
    longest, room = max(map(len, episodes)), forecaster.max_values
    most = longest if room is None else min(longest, room)
    length = most if window is None else window
    if not _LEAST_STEPS <= length <= most:
        raise ConfigError(
            f"window is {length}; it must be {_LEAST_STEPS} to {most}, the most that the model's "
            f"context ({room} values) and the longest trajectory ({longest} steps) leave"
        )
    return length


def _windows(
    episodes: Sequence[Trajectory], length: int, count: int, draw: np.random.Generator
) -> Iterator[Trajectory]:
    """Windows of a length, each start of each trajectory as likely as any other."""
    starts = np.array([max(0, len(e) - length + 1) for e in episodes])
    for place in draw.integers(0, starts.sum(), count):
        episode = int(np.searchsorted(np.cumsum(starts), place, side="right"))
        begin = int(place - starts[:episode].sum())
        yield episodes[episode][begin : begin + length]
