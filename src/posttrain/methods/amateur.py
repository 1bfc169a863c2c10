"""The weaker model that a search compares the sampled one with."""

from __future__ import annotations

from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.methods.endpoint import EndpointModel, Spec
from posttrain.methods.objects import ModelLike
from posttrain.models.loaded import LoadedModel
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.search.strategy import Strategy


def amateur_of(
    spec: Spec, strategy: Strategy | None, amateur: ModelLike | None
) -> ModelSpec | None:
    """The amateur of a search, checked before weights are loaded; None where none is asked for.

    Args:
        spec: the model that is sampled.

    Raises:
        ConfigError: it is missing, the search does not ask for one, or its vocabulary is another.
    """
    name = None if strategy is None else strategy.name
    needs_amateur = strategy is not None and "amateur" in strategy.inputs
    if amateur is None:
        if needs_amateur:
            raise ConfigError(
                f"search {name!r} compares the model with a weaker one of the same vocabulary; "
                "give it as amateur=MODEL"
            )
        return None
    if not needs_amateur:
        what = "there is no search" if name is None else f"search {name!r} asks for none"
        raise ConfigError(
            f"amateur: a weaker model, and {what}; leave it out, or take contrastive_decoding"
        )
    if isinstance(spec, EndpointModel):
        raise ConfigError(
            f"amateur: {spec.place} gives text, and an amateur reads token ids of the same "
            "vocabulary; use an embedded model, or another search"
        )
    weaker = model_spec(amateur)
    ours, theirs = (m.tokenizer and m.tokenizer.get_vocab() for m in (spec, weaker))
    if ours != theirs:
        raise ConfigError(
            f"amateur: the tokenizer of {weaker.place} has another vocabulary than that of "
            f"{spec.place}; take a smaller or earlier model of the same family"
        )
    return weaker


def amateur_engine(amateur: ModelSpec | None) -> TorchEngine | None:
    """An engine on the amateur; its weights are loaded here."""
    return None if amateur is None else TorchEngine(amateur.load())


def identity(spec: Spec | None) -> str | None:
    """Which model it is, in words: its place, and the digest of weights that are in memory."""
    if isinstance(spec, LoadedModel):
        return f"{spec.place} {spec.digest}"
    return None if spec is None else str(spec.place)
