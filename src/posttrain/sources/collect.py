"""From prompts to rewarded groups of completions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import TokenSequence
from posttrain.engines.base import Closing, Engine, Reporting
from posttrain.models.program import whole_weights
from posttrain.rewards.base import RewardSet
from posttrain.sources.episodes import EpisodeSampler
from posttrain.sources.staleness import staleness
from posttrain.types import Example, Request, Sample, Sampling, StopReason, Trace, TraceGroup
from posttrain.world import World

_ALONE = World.alone()


@dataclass(frozen=True, slots=True)
class Prompt:
    """An example with its prompt as token ids. gold: those of its worked completion, where a
    method needs them.
    """

    example: Example
    ids: tuple[int, ...]
    gold: tuple[int, ...] = ()


class Collector:
    """Samples G completions for each prompt of a step and rewards them.

    What a step samples is a function of (seed, step, weights), so that resuming needs the step
    alone. Of several processes each samples all completions of its share of the prompts; where
    servers sample, the main process asks them for all. The main process rewards the completions of
    all: rewards are called once per step.

    Args:
        rewards: None leaves completions without. decode: sample -> completion text. batch_size:
        prompts a step.
        num_generations: G.
        greedy: also sample and reward one completion of each prompt at temperature 0.
        given_steps: over how many steps the share of the gold completion that is given with the
        prompt falls from all but one
            token to nothing (MIXER, arXiv 1511.06732); 0 gives none.
        episodes: what runs an episode for each completion; None: a completion of the prompt's ids.
        max_resamples: rounds in which other prompts take the place of those whose rewards tie,
        which teach nothing (dynamic
            sampling of DAPO, arXiv 2503.14476); 0 keeps them all.
        world: the processes that sample together. served: whether servers sample, which the main
            process alone is connected to.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        engine: Engine,
        rewards: RewardSet | None,
        *,
        decode: Callable[[Sample], str],
        sampling: Sampling,
        batch_size: int,
        num_generations: int,
        seed: int,
        greedy: bool = False,
        max_resamples: int = 0,
        given_steps: int = 0,
        episodes: EpisodeSampler | None = None,
        world: World = _ALONE,
        served: bool = False,
    ) -> None:
        self.prompts = prompts
        self.engine = engine
        self.rewards = rewards
        self.decode = decode
        self.sampling = sampling
        self.batch_size = min(batch_size, len(prompts))
        self.num_generations = num_generations
        self.seed = seed
        self.greedy = greedy
        self.max_resamples = max_resamples
        self.given_steps = given_steps
        self.episodes = episodes
        self.world, self.served = world, served
        self.sampled: list[TraceGroup] = []  # all of the step, those that were left out included
        self.steps_per_epoch = max(len(prompts) // self.batch_size, 1)

    def collect(self, step: int) -> list[TraceGroup]:
        """The rewarded groups of a step."""
        first = self._first(step)
        groups = self.sampled = self._rewarded(step, first, (self.seed, step, 7))
        if not self.max_resamples:
            return groups
        differing = [g for g in groups if _differ(g)]
        others = np.random.default_rng((self.seed, step, 8)).permutation(
            np.setdiff1d(np.arange(len(self.prompts)), first)
        )
        for attempt in range(self.max_resamples):
            chosen = others[attempt * self.batch_size : (attempt + 1) * self.batch_size]
            if len(differing) >= self.batch_size or not len(chosen):
                break
            more = self._rewarded(step, chosen, (self.seed, step, 9 + attempt))
            self.sampled = [*self.sampled, *more]
            differing += [g for g in more if _differ(g)]
        return differing[: self.batch_size]

    def prompts_of(self, step: int) -> tuple[list[Prompt], list[int]]:
        """The prompts of a step, the first ones where others may replace them, and their seeds."""
        first = self._first(step)
        return [self.prompts[i] for i in first], _seeds((self.seed, step, 7), len(first))

    def request(self, prompt: Prompt, seed: int) -> Request:
        """What an engine is asked for the completions of a prompt."""
        return Request(prompt.ids, self.sampling, n=self.num_generations, seed=seed, reuse=False)

    def group(self, prompt: Prompt, samples: Sequence[Sample]) -> TraceGroup:
        """The completions of a prompt, without rewards."""
        traces = [Trace.of_sample(prompt.ids, s, self._text((), s)) for s in samples]
        return TraceGroup(prompt.example, prompt.ids, traces)

    def state(self) -> dict[str, Any]:
        """What a resume needs beside the step: nothing, as the step gives prompts and seeds."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""

    def close(self) -> None:
        """End the engine, where it is a process or has one."""
        if isinstance(self.engine, Closing):
            self.engine.close()

    def _trained_version(self, step: int) -> int | None:
        """The weights that are trained on the samples of a step, None where they are always those
        that sampled them.
        """
        return self.engine.weights_version if isinstance(self.engine, Reporting) else None

    def _first(self, step: int) -> np.ndarray:
        """Places of the prompts of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.prompts))
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def _rewarded(
        self, step: int, chosen: np.ndarray, entropy: tuple[int, ...]
    ) -> list[TraceGroup]:
        prompts, seeds = [self.prompts[i] for i in chosen], _seeds(entropy, len(chosen))
        share = max(0.0, 1 - step / self.given_steps) if self.given_steps else 0.0
        groups = self.sample(prompts, seeds, given=share)
        greedy = self.sample(prompts, seeds, greedy=True, given=share) if self.greedy else []
        for group, likeliest in zip(groups, greedy, strict=False):
            group.greedy_reward = likeliest.traces[0].reward
        return groups

    def sample(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        *,
        greedy: bool = False,
        given: float = 0.0,
    ) -> list[TraceGroup]:
        """`num_generations` completions of each prompt, or the greedy one, rewarded.

        Args:
            given: the share of the gold completion that is given with the prompt; its last token is
            left to sample in any case.
        """
        sampling = dataclasses.replace(self.sampling, temperature=0.0) if greedy else self.sampling
        n = 1 if greedy else self.num_generations

        def groups_of(share: list[tuple[Prompt, int]]) -> list[TraceGroup]:
            own, own_seeds = [p for p, _ in share], [seed for _, seed in share]
            if self.episodes is None:
                return self._completions(own, own_seeds, n, sampling, given)
            return self._episodes(self.episodes, own, own_seeds, n, sampling)

        every = list(zip(prompts, seeds, strict=True))
        with whole_weights(getattr(self.engine, "model", None)):
            if self.served:
                groups = self.world.from_main(lambda: groups_of(every))
            else:
                groups = self.world.spread(every, groups_of)
        if self.rewards is not None:
            self._reward(self.rewards, groups)
        return groups

    def _reward(self, rewards: RewardSet, groups: list[TraceGroup]) -> None:
        """Give the traces their rewards."""
        traces = [trace for group in groups for trace in group.traces]

        def outcomes() -> list[tuple[Any, ...]]:
            rewards.reward(groups)
            return [(t.rewards, t.reward, t.step_rewards, t.error) for t in traces]

        for trace, outcome in zip(traces, self.world.from_main(outcomes), strict=True):
            trace.rewards, trace.reward, trace.step_rewards, trace.error = outcome

    def _episodes(
        self,
        episodes: EpisodeSampler,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        n: int,
        sampling: Sampling,
    ) -> list[TraceGroup]:
        """Groups of episodes. The prompt of a group is the context of a first turn."""
        examples = [p.example for p in prompts]
        rows = episodes.traces(self.engine, examples, seeds, n, sampling)
        groups = []
        for prompt, traces in zip(prompts, rows, strict=True):
            first = next((t.turns[0].context_ids for t in traces if t.turns), prompt.ids)
            groups.append(TraceGroup(prompt.example, first, traces))
        return groups

    def _completions(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        n: int,
        sampling: Sampling,
        given: float,
    ) -> list[TraceGroup]:
        """Groups of completions of the prompts' token ids."""
        begun = [
            p.gold[: min(int(given * len(p.gold)), len(p.gold) - 1)] if given else ()
            for p in prompts
        ]
        requests = [
            Request(p.ids + start, sampling, n=n, seed=s, reuse=False)
            for p, start, s in zip(prompts, begun, seeds, strict=True)
        ]
        return [
            TraceGroup(
                p.example,
                p.ids + start,
                [Trace.of_sample(p.ids + start, s, self._text(start, s)) for s in row],
                num_given=len(start),
            )
            for p, start, row in zip(prompts, begun, self.engine.generate(requests), strict=True)
        ]

    def sync(self, version: int) -> dict[str, float]:
        """Give the engine new weights; its metrics of that, none of the embedded one."""
        return (
            self.world.from_main(lambda: self._sync(version))
            if self.served
            else self._sync(version)
        )

    def _sync(self, version: int) -> dict[str, float]:
        self.engine.sync(version)
        return self.engine.take_metrics() if isinstance(self.engine, Reporting) else {}

    def _text(self, start: tuple[int, ...], sample: Sample) -> str:
        """The text of a completion, what was given of it included."""
        return self.decode(
            dataclasses.replace(sample, ids=[*start, *sample.ids]) if start else sample
        )

    def metrics(self, groups: Sequence[TraceGroup], step: int) -> Averages:
        """Metrics of a step's rollouts, under TRL's names."""
        averages = Averages()
        if (
            self.max_resamples
        ):  # rewards are means over all samples, not over those picked by their rewards
            left_out = len(self.sampled) - len(groups)
            averages.update(
                {
                    "sampling/num_groups": float(len(self.sampled)),
                    "sampling/groups_left_out": float(left_out),
                }
            )
            groups = self.sampled
        if greedy := [g.greedy_reward for g in groups if g.greedy_reward is not None]:
            averages.add("reward_greedy", sum(greedy), len(greedy))
        traces = [r for g in groups for r in g.traces]
        version = self._trained_version(step)
        if version is not None:
            samples = [turn.sample for trace in traces for turn in trace.turns]
            averages.merge(staleness(samples, version))
        lengths = np.array([r.num_sampled for r in traces])
        ended = np.array([not r.is_truncated for r in traces])
        averages.update(
            {
                "completions/mean_length": float(lengths.mean()),
                "completions/min_length": float(lengths.min()),
                "completions/max_length": float(lengths.max()),
                "completions/clipped_ratio": float(1 - ended.mean()),
                "epoch": (step + 1) / self.steps_per_epoch,
            }
        )
        if ended.any():
            averages.update({"completions/mean_terminated_length": float(lengths[ended].mean())})
        if self.episodes is not None:
            averages.merge(episode_metrics(traces))
        if self.rewards is None:
            return averages
        rewards = [[r.reward for r in g.traces if r.reward is not None] for g in groups]
        stds = [float(np.std(row, ddof=1)) for row in rewards if len(row) > 1]
        flat = [value for row in rewards for value in row]
        averages.add("reward", sum(flat), len(flat))
        averages.update(_deviation("reward_std", flat))
        averages.add("frac_reward_zero_std", sum(s < 1e-9 for s in stds), len(stds))
        for name in self.rewards.names:
            values = [v for r in traces if (v := r.rewards.get(name)) is not None]
            averages.add(f"rewards/{name}/mean", sum(values), len(values))
            averages.update(_deviation(f"rewards/{name}/std", values))
        failures = sum(r.has_failed and bool(r.rewards) for r in traces)
        averages.update({"rewards/errors": float(failures)})
        return averages


def episode_metrics(traces: Sequence[Trace]) -> Averages:
    """Means over the episodes of a step: what they report, and why they ended.

    tools/call_frequency and tools/failure_frequency are TRL's: calls per episode, and the share of
    calls that failed. An episode that failed was given to no reward, so it has no rewards.
    """
    averages = Averages()
    turns = [turn for trace in traces for turn in trace.turns]
    calls = [call for turn in turns for call in turn.tool_calls]
    averages.add("episodes/num_turns", len(turns), len(traces))
    failed = sum(t.has_failed and not t.rewards for t in traces)
    averages.add("episodes/failed", failed, len(traces))
    averages.add("tools/call_frequency", len(calls), len(traces))
    if calls:
        errors = sum(call.error is not None for call in calls)
        averages.add("tools/failure_frequency", errors, len(calls))
    for reason in get_args(StopReason):
        count = sum(t.stop_reason == reason and not t.has_failed for t in traces)
        averages.add(f"episodes/stop/{reason}", count, len(traces))
    own = ("num_turns", "num_tool_calls", "num_tool_errors")  # counted above
    for name in dict.fromkeys(name for trace in traces for name in trace.metrics):
        if name not in own:
            values = [t.metrics[name] for t in traces if name in t.metrics]
            averages.add(f"episodes/{name}", sum(values), len(values))
    return averages


class Sampled:
    """A collector of completions that were sampled before, by step."""

    def __init__(self, collector: Collector, groups: Mapping[int, list[TraceGroup]]) -> None:
        self.engine = collector.engine
        self.groups = groups
        self._collector = collector

    def collect(self, step: int) -> list[TraceGroup]:
        """The groups of a step."""
        return self.groups[step]

    def sync(self, version: int) -> dict[str, float]:
        """As `Collector.sync`."""
        return self._collector.sync(version)

    def metrics(self, groups: Sequence[TraceGroup], step: int) -> Averages:
        """Metrics of a step's rollouts, as `Collector` gives them."""
        return self._collector.metrics(groups, step)


def trained(prompt_ids: Sequence[int], written: Sequence[int], row: str) -> TokenSequence:
    """The training sequence of a completion: the sampled ids as they are, never re-tokenised
    text, all of them trained.
    """
    ids = np.array([*prompt_ids, *written], dtype=np.int64)
    return TokenSequence(ids, np.arange(len(ids)) >= len(prompt_ids), row=row)


def _deviation(name: str, values: Sequence[float]) -> dict[str, float]:
    """The Bessel-corrected standard deviation over all completions of the step; nothing where
    there are fewer than two.
    """
    return {name: float(np.std(values, ddof=1))} if len(values) > 1 else {}


def _seeds(entropy: tuple[int, ...], count: int) -> list[int]:
    """A seed per prompt; the engine mixes it with the place of each completion."""
    return [int(s) for s in np.random.default_rng(entropy).integers(0, 2**62, size=count)]


def _differ(group: TraceGroup) -> bool:
    """Whether the rewards of a group differ."""
    rewards = [r.reward for r in group.traces if r.reward is not None]
    return bool(rewards) and max(rewards) - min(rewards) > 1e-9
