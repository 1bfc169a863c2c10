"""Active learning: which rows of a pool are worth a label, round by round over `fit`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from posttrain.component import ComponentLike
from posttrain.evaluation.learning_curves import FILE
from posttrain.labellers.adviser import Adviser
from posttrain.labellers.base import LabellerLike, labeller_of
from posttrain.learners.choice import Use, learner_of
from posttrain.loops.active_runs import Runs, pool_of, recorded, selector_of, selectors_of
from posttrain.loops.active_settings import Budget, Choice
from posttrain.methods.objects import ModelLike, Rows, Selectors, TaskLike, data_of
from posttrain.registry import methods
from posttrain.training.plan import Job, check_positive


@methods.register
def active(
    data: Rows | None = None,
    *,
    task: TaskLike | None = None,
    use: Use = "classes",
    eval_data: Rows | None = None,
    eval_task: TaskLike | None = None,
    selectors: Selectors = ("entropy", "random"),
    labeller: LabellerLike = "oracle",
    cold_start: ComponentLike = "random",
    prune: ComponentLike | None = None,
    adviser: ModelLike | None = None,
    labels: list[str] | None = None,
    training: dict[str, Any] | None = None,
    num_initial: int = 20,
    rows_per_round: int = 20,
    num_rounds: int = 5,
    num_candidates: int = 0,
    num_proposals: int = 0,
    prune_share: float = 0.5,
    min_confidence: float = 0.0,
    max_labels: int = 0,
    max_money: float = 0.0,
    max_tokens: int = 0,
    max_minutes: float = 0.0,
    plateau_rounds: int = 0,
    plateau_gain: float = 0.005,
    stable_share: float = 0.0,
    num_seeds: int = 1,
    num_examples: int = 100,
    num_samples: int = 4,
    questions_at_a_time: int = 16,
) -> Job:
    """Active learning: select rows of a pool, have them labelled, train, evaluate, and stop.

    A round trains anew from the model of the start on all labels so far. Every selector runs with
    every seed, on the same first rows and with the same seeds of training, so that selectors are
    compared with `random` in pairs: always run it. active.json, active.txt (the table) and
    active.svg (the curves) are written. A run goes on after any interruption, and no row is asked
    or paid for twice.
    Uses: "classes" trains a text classifier on rows of text and label. "sft" fine-tunes on
    completions of prompts; with the labeller "model" this is distillation. "demonstrations" puts
    labelled rows into the prompt and trains nothing. "preferences" trains reward models on
    compared pairs of rows of prompt and completions (with rewards, where the oracle labels).
      selectors: [badge, random], labeller: {name: oracle, minutes_per_row: 0.5}
      selectors: [ask_llm, random], adviser: MODEL
      labeller: {name: routed, first: {name: model, model: MODEL, num_samples: 5,
        temperature: 1.0}, second: oracle, threshold: 0.8}

    Args:
        data: the pool. Rows may have a column id; gold is read by the oracle alone.
        task: the pool is a task's examples, where there is no data.
        use: what labels are for.
        eval_data: held-out rows, which draw the curve.
        eval_task: held-out problems, of sft and demonstrations.
        selectors: what chooses rows, each run on its own; the first one is the subject.
        labeller: who labels: oracle, file (a person), model, routed, free_al, llmaaa, noise_al, or
            a function of rows.
        cold_start: chooses the first rows.
        prune: chooses the part of the pool that is scored, such as active_prune.
        adviser: the language model that selectors ask.
        labels: names of the classes; None are those of the gold and of eval_data.
        training: settings of the round's method (classifier, sft, reward_model), and steps.
        num_initial: first rows.
        rows_per_round: of every later round.
        num_rounds: after the first rows.
        num_candidates: rows that are scored in a round, drawn at random; 0 = all.
        num_proposals: texts that the adviser writes in each later round, beside the pool's rows.
        prune_share: of the candidates that `prune` keeps.
        min_confidence: labels of a lower confidence are not learnt from.
        max_labels: rows that are asked about; 0 = no bound.
        max_money: the round that reaches it is the last; 0 = no bound.
        max_tokens: the same of tokens that labellers read and write.
        max_minutes: the same of people's time.
        plateau_rounds: end where the mean gain of so many rounds is below plateau_gain; 0 = off.
        plateau_gain: least gain of a round.
        stable_share: end where two rounds predict the same for this share of the pool; 0 = off.
        num_seeds: seeds of each selector, from the run's seed on.
        num_examples: held-out problems of eval_task.
        num_samples: completions per prompt that selectors by samples read, members of a committee,
            or reward models of an ensemble.
        questions_at_a_time: rows of one question to a labeller.
    """
    settings = recorded(locals())
    check_positive(num_initial=num_initial, rows_per_round=rows_per_round, num_seeds=num_seeds)
    check_positive(questions_at_a_time=questions_at_a_time)
    pool, items = pool_of(data, task), selectors_of(selectors)
    budget = Budget(num_rounds, max_labels, max_money, max_tokens, max_minutes)
    budget = replace(budget, plateau_rounds=plateau_rounds, plateau_gain=plateau_gain)
    budget = replace(budget, stable_share=stable_share)
    choice = Choice(items[0], "", selector_of(cold_start), num_initial, rows_per_round)
    pruner = None if prune is None else selector_of(prune)
    choice = replace(choice, prune=pruner, prune_share=prune_share, num_candidates=num_candidates)
    choice = replace(choice, questions_at_a_time=questions_at_a_time, num_proposals=num_proposals)
    choice = replace(choice, min_confidence=min_confidence)
    length = None if data is None else data_of(data).max_length
    make = partial(learner_of, use, pool=pool, task=task, labels=labels, max_length=length)
    make = partial(make, eval_data=eval_data, eval_task=eval_task, num_examples=num_examples)
    make = partial(make, training=training, num_samples=num_samples)
    advice = None if adviser is None else Adviser(adviser)
    made, name = labeller_of(labeller)
    runs = Runs(make, pool, items, made, name, choice, budget, num_seeds, advice, use)
    runs.check()
    of_job: dict[str, Any] = {"settings": settings, "prepare": runs.prepare, "leaves": FILE}
    return Job(method="active", resumes=True, **of_job)
