"""The public names of the package, and where each is defined. Nothing here imports PyTorch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

NAMES: dict[str, str] = {
    # models, training, measuring
    "load": "posttrain.models.spec",
    "fit": "posttrain.methods.fit",
    "setup": "posttrain.kernels",
    "check": "posttrain.training.review",
    "preview": "posttrain.training.review",
    "predict_cost": "posttrain.training.prediction",
    "loss_of": "posttrain.training.inspection.compute_loss",
    "Plan": "posttrain.training.plan",
    "Loop": "posttrain.training.plan",
    "Result": "posttrain.training.result",
    "World": "posttrain.world",
    "Metrics": "posttrain.training.result",
    "evaluate": "posttrain.methods.measurement",
    "run_search": "posttrain.methods.run_search",
    "fit_policy": "posttrain.methods.compute_optimal",
    "tradeoff": "posttrain.methods.tradeoff",
    "SearchLimits": "posttrain.search.run",
    "search_rows": "posttrain.sources.search_rows",
    "compare": "posttrain.evaluation.comparison",
    "forgetting": "posttrain.methods.forgetting",
    "hacking": "posttrain.methods.hacking",
    "reward_distance": "posttrain.methods.reward_distance",
    "dicl_forecast": "posttrain.dynamics.measurement",
    "dicl_evaluate": "posttrain.dynamics.measurement",
    "dicl_calibrate": "posttrain.dynamics.measurement",
    "hybrid_value": "posttrain.dynamics.policy_value",
    "dicl_sac": "posttrain.control.learning",
    "Forecaster": "posttrain.dynamics.forecaster",
    "Trajectory": "posttrain.dynamics.trajectory",
    "Forgetting": "posttrain.evaluation.forgetting",
    "Hacking": "posttrain.evaluation.hacking",
    "RewardDistances": "posttrain.evaluation.reward_distance",
    "icl": "posttrain.incontext.icl",
    "InContext": "posttrain.incontext.result",
    "Template": "posttrain.incontext.templates",
    "Retriever": "posttrain.incontext.retrieval",
    "reading": "posttrain.incontext.retrieval",
    "raft_rows": "posttrain.incontext.retrieval",
    "answerability": "posttrain.incontext.answers",
    "contamination": "posttrain.evaluation.contamination",
    "data_report": "posttrain.curation.summary",
    "duplicates": "posttrain.curation.copies",
    "deduplicate": "posttrain.curation.copies",
    "mix": "posttrain.curation.mix",
    "filter_rows": "posttrain.curation.selection",
    "self_instruct": "posttrain.curation.synthesis",
    "evolve": "posttrain.curation.synthesis",
    "back_translate": "posttrain.curation.synthesis",
    "rationales": "posttrain.curation.synthesis",
    "identity_rows": "posttrain.curation.synthesis",
    "simulate_collapse": "posttrain.loops.collapse_simulation",
    "harness_model": "posttrain.evaluation.harness",
    "Evaluation": "posttrain.evaluation.outcomes",
    # methods that train: each gives a plan
    "sft": "posttrain.methods.sft",
    "dpo": "posttrain.methods.dpo",
    "kto": "posttrain.methods.kto",
    "listwise": "posttrain.methods.listwise",
    "reward_model": "posttrain.methods.reward_model",
    "classifier": "posttrain.methods.classifier",
    "grpo": "posttrain.methods.grpo",
    "ppo": "posttrain.methods.ppo",
    "online_dpo": "posttrain.methods.online_dpo",
    "spin": "posttrain.loops.spin",
    "iterative_dpo": "posttrain.loops.iterative_dpo",
    "self_training": "posttrain.loops.self_training",
    "weak_data": "posttrain.loops.weak_data",
    "continual": "posttrain.loops.continual",
    "continual_table": "posttrain.loops.sequences",
    "revision_rows": "posttrain.loops.revision",
    "short_rows": "posttrain.loops.short_answers",
    "reasoned_rows": "posttrain.loops.reasoning",
    "safety_margins": "posttrain.data.safety",
    "reward_refresh": "posttrain.loops.reward_refresh",
    "offline": "posttrain.methods.offline",
    "distill": "posttrain.methods.distill",
    "sdft": "posttrain.methods.sdft",
    # values
    "make_task": "posttrain.tasks.rows",
    "Task": "posttrain.types",
    "Trace": "posttrain.types",
    "TraceGroup": "posttrain.types",
    "Turn": "posttrain.types",
    "ToolCall": "posttrain.types",
    "Example": "posttrain.types",
    "Sampling": "posttrain.config.SamplingConfig",
    "Agent": "posttrain.config.AgentConfig",
    "Endpoint": "posttrain.config.EndpointConfig",
    "Served": "posttrain.config.ServedConfig",
    "Launch": "posttrain.config.LaunchConfig",
    "Overlap": "posttrain.config.OverlapConfig",
    "LoRA": "posttrain.config.LoraConfig",
    "Adapter": "posttrain.config.AdapterConfig",
    "Model": "posttrain.config.ModelConfig",
    "Data": "posttrain.config.DataConfig",
    "DataSource": "posttrain.config.SourceConfig",
    "Credit": "posttrain.config.CreditConfig",
    "TrustRegion": "posttrain.config.TrustRegionConfig",
    "Watch": "posttrain.config.WatchConfig",
    "Control": "posttrain.control.dicl_sac.ControlConfig",
    "SAC": "posttrain.control.sac.SACConfig",
    "Limits": "posttrain.config",
    "Sandbox": "posttrain.sandbox.pool",
    "FunctionTests": "posttrain.sandbox.pool",
    "SandboxLimits": "posttrain.sandbox.limits",
    "PosttrainError": "posttrain.errors",
}
"""Public name -> module, or module and name where the names differ."""

RENAMED = ("loss_of",)

JOBS: dict[str, str] = {
    "sample": "posttrain.methods.sample",
    "label_preferences": "posttrain.methods.ai_feedback",
    "critique_revise": "posttrain.methods.ai_feedback",
    "label_steps": "posttrain.methods.label_steps",
    "restarts": "posttrain.methods.restarts",
    "malt": "posttrain.methods.malt",
    "evaluate_reward": "posttrain.methods.evaluate_reward",
    "continual_pretraining": "posttrain.loops.domains",
    "active": "posttrain.loops.active",
}
"""Functions of a model that train nothing: each does a job and gives back its result."""

KINDS: dict[str, str] = {
    "loss": "losses",
    "advantage": "advantages",
    "reward": "rewards",
    "task": "tasks",
    "environment": "environments",
    "strategy": "searches",
    "retention": "retentions",
    "quality": "qualities",
    "selector": "selectors",
    "labeller": "labellers",
    "selection": "selections",
    "order": "orders",
    "calibration": "calibrations",
}
"""Groups of registered functions: pt.reward.exact is one, @pt.reward adds one."""

SEARCHES = ("majority_vote", "weighted_vote", "best_of_n", "value_beam")
"""Strategies of test-time search with names of their own, as functions of their settings; all are
in pt.strategy.
"""


class Registered:
    """The registered functions of one kind, by name; called, a decorator that registers.

    pt.reward.length
    @pt.reward
    def short(completions): ...
    """

    def __init__(self, kind: str, registry: str) -> None:
        self._kind, self._registry = kind, registry

    @property
    def _functions(self) -> Any:
        return getattr(importlib.import_module("posttrain.registry"), self._registry)

    def __call__(self, function: Callable[..., Any] | None = None, **declared: Any) -> Any:
        register = self._functions.register
        if function is None:
            return functools.partial(register, **declared) if declared else register
        return register(function, **declared)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        names = self._functions.names()
        if name not in names:
            nearest = importlib.import_module("posttrain.errors").nearest
            raise AttributeError(f"there is no {self._kind} {name!r}: {nearest(name, names)}")
        if self._registry == "searches":  # called with settings alone it makes a strategy
            return importlib.import_module("posttrain.search.strategy").bound(name)
        return self._functions.get(name)

    def __dir__(self) -> list[str]:
        return list(self._functions.names())

    def __repr__(self) -> str:
        return f"<registered {self._registry}: {', '.join(self._functions.names())}>"


def public(name: str) -> Any:
    """The object of a public name.

    Raises:
        AttributeError: there is none.
    """
    if name in NAMES:
        place, _, last = NAMES[name].rpartition(".")
        if last[0].isupper() or name in RENAMED:
            return getattr(importlib.import_module(place), last)
        return getattr(importlib.import_module(NAMES[name]), name)
    if name in JOBS:
        return _job(getattr(importlib.import_module(JOBS[name]), name))
    if name in KINDS:
        return Registered(name, KINDS[name])
    if name in SEARCHES:
        return importlib.import_module("posttrain.search.strategy").bound(name)
    raise AttributeError(f"module 'posttrain' has no attribute {name!r}")


def _job(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that makes a job, as a function that does it."""

    @functools.wraps(method)
    def do(
        model: Any,
        *arguments: Any,
        output: Any = None,
        seed: int = 0,
        console: Any = None,
        resume: bool = False,
        **settings: Any,
    ) -> Any:
        perform = importlib.import_module("posttrain.training.perform").perform
        job = method(*arguments, **settings)
        return perform(model, job, output=output, seed=seed, console=console, resume=resume)

    do.__doc__ = (
        f"{method.__doc__}\n    The first argument is the model: loaded, a folder, a hub id, or "
        '"embedded". `output`\n    is a folder for the result\'s files, `seed` that of what is '
        "sampled; `resume` goes on with what `output` holds, where the job can. The result is "
        "returned.\n"
    )
    return do


def names() -> list[str]:
    """All public names."""
    return [*NAMES, *JOBS, *KINDS, *SEARCHES]
