"""Episodes of a task's problems, graded: the model acts in an environment, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from posttrain.engines.base import Engine
from posttrain.evaluation.outcomes import Evaluation, Outcome
from posttrain.evaluation.samples import NUM_TEXTS, Problem, Progress, example_seed
from posttrain.rewards.environment import episode_reward
from posttrain.rewards.grader import Grader, TaskGrader
from posttrain.sources.episodes import EpisodeSampler
from posttrain.types import Example, Sampling, Task, Trace, plain_text


def measure_episodes(
    engine: Engine,
    problems: Sequence[Problem],
    task: Task,
    sampler: EpisodeSampler,
    *,
    environment: str,
    num_samples: int,
    sampling: Sampling,
    seed: int,
    grader: Grader | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run `num_samples` episodes of each problem and grade them.

    The verdict on an episode is the task's, on the text of its last turn. Where the task cannot
    grade, an episode is right if the environment's reward is at least 1. A failed episode is wrong
    and counted in `errors`.

    Args:
        environment: in words, for the record.
        grader: calls the task's verdicts, within its time limit.
        progress: is called when all episodes of a problem have ended.

    Raises:
        EpisodeError: too many episodes failed.
        RewardError: verdicts exceed the time limit again and again.
    """
    examples = [example for example, _ in problems]
    seeds = [example_seed(seed, example) for example in examples]
    left = [num_samples] * len(problems)

    def finished(place: int) -> None:
        left[place] -= 1
        if progress is not None and not left[place]:
            progress(left.count(0), len(problems))

    groups = sampler.traces(engine, examples, seeds, num_samples, sampling, on_finished=finished)
    verdicts = TaskGrader(task, grader)
    outcomes = [
        _outcome(example, traces, task, verdicts)
        for example, traces in zip(examples, groups, strict=True)
    ]
    traces = [trace for group in groups for trace in group]
    failed = sum(trace.has_failed for trace in traces)
    truncated = sum(trace.is_truncated for trace in traces) / max(len(traces), 1)
    return Evaluation(
        task.name,
        asdict(sampling),
        seed,
        num_samples,
        outcomes,
        truncated,
        failed + verdicts.errors,
        environment=environment,
    )


def _outcome(
    example: Example, traces: Sequence[Trace], task: Task, verdicts: TaskGrader
) -> Outcome:
    texts = [trace.text for trace in traces]
    rewards = [None if trace.has_failed else episode_reward(trace) for trace in traces]
    if task.unscored:
        right = [reward is not None and reward >= 1 for reward in rewards]
        answers: list[str | None] = [trace.stop_reason for trace in traces]
    else:
        right = [bool(correct) for correct in verdicts.correct(texts, example)]
        answers = verdicts.answers(texts)
    return Outcome(
        example.id,
        plain_text(example.prompt),
        str(example.answer),
        [int(r and not t.has_failed) for r, t in zip(right, traces, strict=True)],
        answers,
        [trace.num_sampled for trace in traces],
        [transcript(trace) for trace in traces[:NUM_TEXTS]],
        rewards=rewards if any(reward is not None for reward in rewards) else [],
        num_turns=[len(trace.turns) for trace in traces],
    )


def transcript(trace: Trace) -> str:
    """The turns of an episode, with what was said between them, as plain text."""
    parts: list[str] = []
    for number, turn in enumerate(trace.turns):
        said = turn.messages if number else []
        parts += [f"[{m['role']}] {m['content']}" for m in said if m.get("content")]
        parts.append(turn.text)
    return "\n".join(parts) if parts else trace.text
