"""The cost of a plan for a model and devices, before any weights are loaded."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

from posttrain.config import ModelConfig
from posttrain.errors import ConfigError
from posttrain.models.forest_model import ForestModel
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.training.cost import Cost, Layout, Workload, predict
from posttrain.training.devices import Device, device_of
from posttrain.training.plan import Plan
from posttrain.training.settings import TrainingSettings
from posttrain.training.shapes import Shape, shape_of

_DRAWN = 4  # steps whose rows are counted


def predict_cost(
    model: ModelSpec | ForestModel | ModelConfig | str | Path,
    plan: Plan,
    *,
    devices: int = 1,
    device_kind: str | Device = "h100",
    sharded: bool | None = None,
    prompt_tokens: int = 256,
    completion_tokens: int | None = None,
    shape: str | None = None,
    seed: int = 0,
    **settings: Any,
) -> Cost:
    """Memory and seconds of a step, predicted (`training.cost`). No weights are loaded.

        cost = pt.predict_cost("Qwen/Qwen3-0.6B", pt.sft(rows), devices=8, device_kind="h100")
        cost.peak / 2**30, cost.step_seconds, cost.breaks_first

    Args:
        model: as in `fit`; its config alone is read. plan: what is trained.
        devices: how many. device_kind: a name of `training.devices.DEVICES`, or a `Device`.
        sharded: whether weights are split over the devices; None: where there are several.
        prompt_tokens: of a prompt, where completions are sampled; rows are counted themselves.
        completion_tokens: of a sampled completion; None takes sampling.max_tokens, the most.
        shape: predict as if the model had this one, a name of `training.shapes.SHAPES`.
        settings: of the training, as in `fit`: optimizer, ema_decay, max_tokens_per_micro_batch.

    Raises:
        ConfigError, DataError: what `fit` would refuse; a device that is not known.
    """
    if not isinstance(plan, Plan):
        raise ConfigError("predict_cost: a loop of rounds has no one step; predict its plans")
    spec = model_spec(model, seed=seed)
    device = device_of(device_kind) if isinstance(device_kind, str) else device_kind
    options = TrainingSettings.of(settings, plan.method, plan.settings)
    form = Shape.of(spec.settings()) if shape is None else shape_of(shape)
    split = devices > 1 if sharded is None else sharded
    layout = layout_of(spec, form, options, device, devices=devices, sharded=split)
    work = plan.prepare(spec, seed, None)
    try:
        if work.samples:
            tokens = completion_tokens or _most_tokens(plan)
            load = sampled_workload(plan, prompt_tokens, tokens, layout)
        else:
            load = row_workload(plan, work, layout)
    finally:
        work.close()
    micro = options.max_tokens_per_micro_batch or (16384 if device.half else 2048)
    return predict(form, _with_micro(load, micro), layout, device)


def layout_of(
    spec: Any,
    shape: Shape,
    settings: TrainingSettings,
    device: Device,
    *,
    devices: int,
    sharded: bool,
) -> Layout:
    """How the training of a model is laid out. LoRA's share of the weights is that of its
    matrices at all seven projections.
    """
    config = getattr(spec, "config", None) or getattr(spec, "origin", None)
    lora = getattr(config, "lora", None)
    trained = 1.0
    if lora is not None:
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        sides = 2 * (shape.hidden + q) + 2 * (shape.hidden + kv) + 3 * (shape.hidden + shape.inner)
        trained = lora.r * sides * shape.layers / shape.parameters
    dtype = getattr(config, "dtype", "auto")
    half = dtype in ("bfloat16", "float16") or (dtype == "auto" and device.half)
    return Layout(
        devices=devices,
        sharded=sharded,
        trained=trained,
        optimizer=settings.optimizer,
        average=settings.ema_decay > 0,
        checkpointing=bool(getattr(config, "gradient_checkpointing", False)),
        weight_bytes=2 if half else 4,
    )


def row_workload(plan: Plan, work: Any, layout: Layout) -> Workload:
    """Of rows: what the first steps hold on average."""
    source = work.source(None)
    counts = []
    for step in range(min(_DRAWN, work.steps)):
        for batch in source.batches(step):
            lengths = batch.num_unshared_tokens / max(len(batch.rows), 1)
            counts.append((batch.num_tokens, batch.num_targets, lengths))
    tokens, targets, length = (statistics.mean(count[i] for count in counts) for i in range(3))
    helpers = _helpers(plan, work.objective or plan.objective, layout)
    return Workload(tokens, targets, length / 2, **helpers)


def sampled_workload(plan: Plan, prompt: int, completion: int, layout: Layout) -> Workload:
    """Of sampled completions, by the settings of the plan. Prompts are shared by their group."""
    s = plan.settings
    prompts, group = int(s.get("batch_size", 16)), int(s.get("num_generations", 1) or 1)
    rows = prompts * group
    passes, minibatches = int(s.get("num_iterations", 1)), int(s.get("num_minibatches", 1))
    helpers = _helpers(plan, plan.objective, layout)
    if passes * minibatches > 1:
        helpers["extra_passes"] += 1  # old log-probs
    return Workload(
        tokens=prompts * prompt + rows * completion,
        targets=rows * completion,
        context=prompt + completion / 2,
        sampled_rows=rows,
        prompt_tokens=prompt,
        completion_tokens=completion,
        group=group,
        passes=passes,
        updates=passes * minibatches,
        **helpers,
    )


def _helpers(plan: Plan, objective: Any, layout: Layout) -> dict[str, Any]:
    compares = plan.reference.in_memory(objective)
    copies = int(compares and layout.trained == 1)  # adapters are switched off instead
    teaches = plan.teacher is not None
    return {
        "extra_passes": int(compares) + int(teaches),
        "frozen": copies + int(teaches),
        "critic": plan.critic is not None,
    }


def _most_tokens(plan: Plan) -> int:
    sampling = plan.settings.get("sampling")
    return int(getattr(sampling, "max_tokens", None) or 512)


def _with_micro(load: Workload, micro: int) -> Workload:
    return dataclasses.replace(load, micro_tokens=micro)
