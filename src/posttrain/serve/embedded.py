"""A language model in this process, and adapters on it, as what is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from posttrain.engines.adapted import AdaptedEngine
from posttrain.engines.likelihood import TokenLikelihood, likelihoods
from posttrain.errors import ConfigError, MissingDependency
from posttrain.models.adapter_sharing import check_adapter, with_adapter
from posttrain.models.language_model import LanguageModel
from posttrain.serve.search import AT
from posttrain.serve.served import ServedModel
from posttrain.types import Constraint


def check_adapters(adapters: Mapping[str, str], base: str) -> None:
    """Check the names of adapters and what can be checked of their folders without weights.

    Args:
        adapters: folders by name. base: name of the model below them.
    Raises:
        ConfigError: a name that requests cannot give. ModelError: a folder holds no adapters.
    """
    for name, folder in adapters.items():
        if name == base:
            raise ConfigError(
                f"adapter {name!r} has the name of the model below it; give it another"
            )
        if not name or AT in name or not name.isprintable():
            raise ConfigError(
                f"adapter {name!r}: a name has printable characters and no {AT!r}, behind which "
                "requests name a search"
            )
        check_adapter(folder)


def served_model(
    model: LanguageModel,
    name: str,
    adapters: Mapping[str, str] | None = None,
    *,
    own_templates: bool = True,
    notice: Callable[[str], None] = lambda text: None,
    **bounds: int,
) -> ServedModel:
    """A model with adapters on it, ready to be served.

    Args:
        name: the `model` of requests. adapters: folders by the name in requests.
        own_templates: messages to an adapter are rendered by the chat template of its folder,
        where there is one; else by the model's.
        notice: told what is off. bounds: of `TorchEngine`.
    Raises:
        ConfigError, ModelError: see `check_adapters`; an adapter does not fit the model.
    """
    adapters = adapters or {}
    check_adapters(adapters, name)
    adapted = {name: with_adapter(model, folder) for name, folder in adapters.items()}
    engine = AdaptedEngine(model.eval(), adapted, **bounds)

    def scored(
        sequences: Sequence[Sequence[int]], num_top: int, adapter: str
    ) -> list[list[TokenLikelihood]]:
        scorer = engine.engine(adapter)
        max_tokens = scorer.max_prefill_tokens
        return likelihoods(scorer.model, sequences, num_top=num_top, max_tokens=max_tokens)

    return ServedModel(
        name,
        model.tokenizer,
        engine,
        vocab_size=model.config.vocab_size,
        context_length=model.context_length,
        likelihoods=scored,
        compile_constraint=_compiler(engine, notice),
        adapters={
            name: other.tokenizer if own_templates else model.tokenizer
            for name, other in adapted.items()
        },
    )


def _compiler(
    engine: AdaptedEngine, notice: Callable[[str], None]
) -> Callable[[Constraint], None] | None:
    """Compiles constraints of an engine; None, with a notice, where it can follow none."""
    try:
        engine.compile(Constraint.regex("a|b"))  # reads the tokenizer, before any thread does
    except (ConfigError, MissingDependency) as error:
        notice(f"response_format is off: {error}")
        return None
    return engine.compile
