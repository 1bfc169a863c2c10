"""On-policy replay: the model answers earlier prompts, and its right answers are replayed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from posttrain.config import Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.templates import decode_completion
from posttrain.errors import ConfigError
from posttrain.methods.objects import rewards_of, task_of
from posttrain.methods.prompts import encode_prompts, make_collector, sampling_of
from posttrain.models.loaded import LoadedModel
from posttrain.registry import retentions
from posttrain.retentions.base import Retention, Stage, with_settings
from posttrain.retentions.replay import check_share, joined, share_of
from posttrain.sources.selection import Rule
from posttrain.training.plan import Plan


class OnPolicyReplay(Retention):
    """Rows that the model itself writes as a stage begins.

    Args:
        min_reward: of a replayed completion; None = all, with no reward (self-synthesised).
    """

    def __init__(
        self, share: float, num_prompts: int, num_generations: int, min_reward: float | None
    ) -> None:
        self.share, self.num_prompts = share, num_prompts
        self.num_generations, self.min_reward = num_generations, min_reward

    def begin(self, stage: Stage) -> Plan:
        """The plan with rows that the model has just written."""
        rows = [row for plan in stage.earlier for row in self._rows(plan, stage)]
        if not rows:  # the first stage, or nothing of the earlier ones is right any more
            return stage.plan
        if stage.plan.method != "sft":
            raise ConfigError(
                f"on_policy_replay: it replays rows to imitate, and the stage is by "
                f"{stage.plan.method!r}; take replay, whose prompts GRPO and PPO sample anew"
            )
        number = share_of(int(stage.plan.settings.get("batch_size", 16)), self.share)
        replayed = with_settings(
            stage.plan, data=rows, task=None, eval_data=None, batch_size=number
        )
        return joined(stage.plan, [replayed])

    def _rows(self, plan: Plan, stage: Stage) -> list[dict[str, Any]]:
        """Completions of an earlier stage's prompts by the model as it is."""
        if plan.settings.get("task") is None:
            raise ConfigError(
                "on_policy_replay: an earlier stage has no task, whose prompts and verdicts it "
                "needs; give its plan a task: pt.sft(task=...)"
            )
        task = task_of(plan.settings["task"])
        task = replace(task, examples=task.examples[: self.num_prompts])
        spec, limits = LoadedModel(stage.model), Limits()
        sampling = sampling_of(SamplingConfig(), task)
        prompts = encode_prompts(spec, task, sampling, limits=limits, account=Account())
        rewards = rewards_of("task", task, limits) if self.min_reward is not None else None
        collector = make_collector(
            stage.model,
            prompts,
            rewards,
            sampling,
            len(prompts),
            self.num_generations,
            stage.seed + stage.number,
        )
        groups = collector.collect(0)
        if rewards is not None:
            rewards.close()
        rule = Rule(self.min_reward)
        rows = []
        for group in groups:
            kept = rule.keep([group])[0] if self.min_reward is not None else group.traces
            for trace in kept:
                text = decode_completion(stage.model.tokenizer, trace.sample)
                if text.strip():
                    rows.append({"prompt": group.example.prompt, "completion": text})
        return rows


@retentions.register
def on_policy_replay(
    *,
    share: float = 0.1,
    num_prompts: int = 64,
    num_generations: int = 2,
    min_reward: float | None = 1.0,
) -> Retention:
    """On-policy replay (arXiv 2605.29495): rewarded answers of the model to earlier prompts.

    As a stage begins, the model completes prompts of each earlier stage. What its task rewards is
    imitated beside the stage's own rows. With min_reward None everything is replayed, as in
    self-synthesised rehearsal (arXiv 2403.01244).

    Args:
        share: of the rows of a batch that are replayed.
        num_prompts: of each earlier stage, the first ones.
        num_generations: completions of a prompt.
        min_reward: least reward of a replayed completion; None asks for no reward.
    """
    check_share("on_policy_replay", share)
    for name, value in (("num_prompts", num_prompts), ("num_generations", num_generations)):
        if value < 1:
            raise ConfigError(f"on_policy_replay: {name} is {value}; it must be at least 1")
    return OnPolicyReplay(share, num_prompts, num_generations, min_reward)
