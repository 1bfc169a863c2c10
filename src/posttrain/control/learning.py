"""`pt.dicl_sac`: learn to act in an environment, with or without forecast transitions."""

from __future__ import annotations

from pathlib import Path

from posttrain.config import ModelConfig
from posttrain.control.dicl_sac import ControlConfig, ControlResult, ControlRun
from posttrain.control.environments import Environment, make_environment
from posttrain.dynamics.forecaster import Forecaster
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec, model_spec


def dicl_sac(
    environment: str | Environment,
    control: ControlConfig = ControlConfig(),
    *,
    model: ModelSpec | LanguageModel | ModelConfig | str | Path | None = None,
    output: str | Path | None = None,
    save_every: int = 10,
    resume: bool = False,
) -> ControlResult:
    """Soft actor-critic, and DICL-SAC where a model forecasts further transitions (Benechehab et
    al., arXiv 2410.11711).

        control = pt.Control(num_steps=6000, predicted_share=0.05)
        result = pt.dicl_sac("Pendulum-v1", control, model="embedded-dynamics")

    Args:
        environment: a name of Gymnasium's, "linear", or an object with `reset(seed)` and
            `step(action)` (see `control.environments.Environment`).
        control: settings; with predicted_share 0 it is plain SAC, and needs no model.
        model: that forecasts.
        output: a folder for checkpoints and control.json. save_every: episodes per checkpoint.
        resume: go on from the checkpoint in `output`; the result is that of a run which was not
            stopped.

    Raises:
        ConfigError: settings that do not fit each other, the model or the environment.
        MissingDependency: Gymnasium is not installed.
    """
    world = make_environment(environment) if isinstance(environment, str) else environment
    forecaster = None
    if model is not None:
        loaded = model if isinstance(model, LanguageModel) else model_spec(model).load()
        forecaster = Forecaster(loaded)
    run = ControlRun(world, control, forecaster)
    return run.run(output, save_every=save_every, resume=resume)
