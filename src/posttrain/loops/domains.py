"""Continual pretraining measured: a stream of domains, and every domain after every stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from posttrain.data.domains import Domain, documents, domains_of
from posttrain.data.static_embeddings import check_installed
from posttrain.errors import ConfigError, nearest
from posttrain.evaluation.streams import FILE, Streams
from posttrain.loops.domain_stages import Benchmark
from posttrain.loops.stream_config import StreamConfig
from posttrain.methods.evaluate import needed
from posttrain.methods.objects import Domains, Rows, data_of
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.training.ending import resumed_as
from posttrain.training.optim import Schedule
from posttrain.training.plan import Facts, Job, Place, PreparedJob, check_positive
from posttrain.typecheck import check

_BY_SIMILARITY = ("similar", "swapped")
_DEFAULT: list[dict[str, Any]] = [{"order": "random"}, {"order": "similar"}]


@methods.register
def continual_pretraining(
    data: Domains,
    *,
    streams: list[dict[str, Any]] | None = None,
    num_seeds: int = 5,
    steps_per_domain: int = 100,
    batch_size: int = 16,
    learning_rate: float = 1e-4,
    lr_scheduler_type: Schedule = "cosine",
    warmup_steps: float = 0.1,
    min_lr_ratio: float = 0.1,
    rate_schedule: Literal["rewarmed", "continued", "constant"] = "rewarmed",
    replay_share: float = 0.0,
    train_characters: int | None = None,
    held_out_share: float = 0.1,
    held_out_characters: int = 20_000,
    similarity: Literal["words", "embeddings"] = "words",
    pretraining: Rows | None = None,
    num_keywords: int = 20,
    keep_models: bool = False,
) -> Job:
    """Continual pretraining on a stream of domains: what each stage does to every domain.

    Each file and folder of `data` is a domain with a held-out part. A stream trains on one domain
    after the other and measures all of them after each stage, which gives the matrix P(i, j) of
    arXiv 2402.17400. From it follow zero shot (ZS), each domain just after its stage (CPT), at the
    last checkpoint (LC), forgetting (FG = LC - CPT), and backward and forward transfer by lag.
    Beside them stands training on each domain alone (DAPT). Streams share their seeds, so that
    their differences are paired. continual.json, continual.txt and a heat map of each stream are
    written. A stream sets its own order and any of its other settings:
      streams: [{order: random}, {order: similar}, {order: random, replay_share: 0.25}]
    Orders: "random" (drawn by seed), "similar" (the nearest domain next), "swapped" (the halves of
    the similar one swapped), "given" (by name).

    Args:
        data: a folder with a file or a folder for each domain, and how each is read; in Python
            also a mapping from name to rows. Long documents are split, not cut.
        streams: of each stream its order, and what differs from the settings below: name,
            replay_share, batch_size, learning_rate, rate_schedule, steps_per_domain,
            train_characters. None is a random and a similar order. Others are compared with the
            first.
        num_seeds: seeds of each stream, from the run's seed on.
        steps_per_domain: updates of a stage.
        batch_size: sequences per update.
        learning_rate: peak learning rate of a stage.
        lr_scheduler_type: how the learning rate changes in a stage that is rewarmed.
        warmup_steps: steps of rising learning rate in each stage; below 1 a share of its steps.
        min_lr_ratio: share of the learning rate at which a stage ends.
        rate_schedule: "rewarmed" begins and ends the schedule in each stage (arXiv 2403.08763),
            "continued" is one linear decay over the whole stream, "constant" has none.
        replay_share: share of a stage's characters that are rows of earlier domains.
        train_characters: of each domain to train on, so that sizes are balanced; None = all.
        held_out_share: share of a domain's documents that are held out.
        held_out_characters: of a domain's held-out part.
        similarity: of domains for orders: "words" (TF-IDF), or "embeddings" (static sentence
            embeddings, of the extra `embeddings`).
        pretraining: text like that of the model's pretraining. The similar order begins with the
            nearest domain to it; None begins with the domain of the lowest perplexity.
        num_keywords: keywords of each domain, whose ranks are measured too; 0 = none.
        keep_models: keep the models of all stages, and not only the last.
    """
    settings = dict(locals())
    check_positive(num_seeds=num_seeds, held_out_characters=held_out_characters)
    _check_share(held_out_share)
    domains = domains_of(data if isinstance(data, Mapping) else data_of(data))
    sample = None if pretraining is None else Domain("pretraining", data_of(pretraining))
    sizes = batch_size, learning_rate, rate_schedule, steps_per_domain, train_characters
    variants = _variants(streams, StreamConfig("random", "", replay_share, *sizes))
    if similarity == "embeddings" and any(s.order in _BY_SIMILARITY for s in variants):
        check_installed()

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        start = needed(spec)
        _check_model(start)
        for domain in (*domains, *([] if sample is None else [sample])):
            _check_readable(domain)
        benchmark = Benchmark(
            start,
            domains,
            variants,
            seeds=range(seed, seed + num_seeds),
            schedule=(lr_scheduler_type, warmup_steps, min_lr_ratio),
            held_out=(held_out_share, held_out_characters),
            similarity=similarity,
            pretraining=sample,
            num_keywords=num_keywords,
            keep_models=keep_models,
        )
        return PreparedJob(facts=_facts(domains, variants, num_seeds), run=_run(benchmark))

    return Job(
        method="continual_pretraining",
        settings=settings,
        prepare=prepare,
        leaves=FILE,
        resumes=True,
    )


def _run(benchmark: Benchmark) -> Callable[[Place], Streams]:
    def run(place: Place) -> Streams:
        with resumed_as(f"posttrain resume {place.path}, or the same call with resume=True"):
            return benchmark.run(place)

    return run


def _check_share(held_out_share: float) -> None:
    if not 0 < held_out_share < 1:
        raise ConfigError(
            f"held_out_share: {held_out_share} is the share of documents that are held out; it "
            "must be between 0 and 1"
        )


def _variants(raw: list[dict[str, Any]] | None, first: StreamConfig) -> list[StreamConfig]:
    """The streams with the settings that they leave to the method.

    Raises:
        ConfigError: an unknown key, a value out of range, or two streams of one name.
    """
    names = [f.name for f in dataclasses.fields(StreamConfig)]
    variants = []
    for number, values in enumerate(_DEFAULT if raw is None else raw):
        where = f"streams[{number}]"
        for key in values:
            if key not in names:
                raise ConfigError(f"{where}.{key}: no such setting; {nearest(key, names)}")
        whole = check({**dataclasses.asdict(first), **values}, StreamConfig, where)
        whole.check(where)
        variants.append(whole if whole.name else dataclasses.replace(whole, name=_name(values)))
    if not variants:
        raise ConfigError("streams: there is none; give at least one, such as {order: random}")
    called = [stream.name for stream in variants]
    for name in called:
        if called.count(name) > 1:
            raise ConfigError(f"streams: two are called {name!r}; give each a name of its own")
    return variants


def _name(values: Mapping[str, Any]) -> str:
    """What sets a stream apart, in words: "random replay_share=0.25"."""
    rest = [f"{key}={value}" for key, value in values.items() if key not in ("order", "name")]
    return " ".join([str(values.get("order", "random")), *rest])


def _check_model(spec: ModelSpec) -> None:
    """Refuse adapters: each stage starts from the whole weights of the one before."""
    if spec.has_adapters:
        raise ConfigError(
            f"model: {spec.place} has adapters, and stages train whole weights; merge them first "
            "with `posttrain merge`, or give another model"
        )


def _check_readable(domain: Domain) -> None:
    for part in (domain.data, domain.held_out):
        if part is not None:
            next(documents(part), None)


def _facts(domains: list[Domain], streams: list[StreamConfig], num_seeds: int) -> Facts:
    names = ", ".join(domain.name for domain in domains)
    later = [len(domains) - (stream.rate_schedule != "continued") for stream in streams]
    stages = num_seeds * sum(later)
    alone = num_seeds * len(domains) * len({stream.alone_key for stream in streams})
    return [
        ("domains", f"{len(domains)}: {names}"),
        *((f"stream {i + 1}", stream.name) for i, stream in enumerate(streams)),
        (
            "trainings",
            f"{alone} of a domain alone, and {stages} of later stages; {num_seeds} seeds",
        ),
    ]
