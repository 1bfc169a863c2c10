"""A model in memory, which `fit` trains in place, and what a resume does to it.

A checkpoint holds the trained weights, so a resume loads them into the model in hand, whatever that
has learnt since. What no checkpoint holds has to be that of the start: the frozen weights below
adapters, and, where a run compares with the model that it began from, the weights of the start.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from posttrain.config import ModelConfig
from posttrain.errors import CheckpointError, ConfigError
from posttrain.models.adapter_state import rank_tables
from posttrain.models.class_head import Classes
from posttrain.models.forest_model import ForestModel
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import Kind, load_model, load_score_model
from posttrain.models.named import NamedModel
from posttrain.models.score_model import ScoreModel

_KEPT = (
    "weights_version",
    "critic",
    "teacher",
    "foreign",
    "_frozen",
    "reference_updates",
    "fresh_adapters",
)


@dataclass(frozen=True, slots=True)
class _Held:
    """What a model held before a resume loaded anything into it."""

    weights: dict[str, Tensor]
    attributes: dict[str, Any]
    ranks: dict[str, dict[str, Any]]
    adapter: dict[str, Any]
    training: bool


class LoadedModel:
    """A model in memory. `fit` trains it in place."""

    def __init__(self, model: ForestModel) -> None:
        self.model = model
        self.config = ModelConfig(self.name)
        self._held: _Held | None = None

    @cached_property
    def digest(self) -> str:
        """Digest of the weights as the run starts, before those of a checkpoint are loaded."""
        return _whole_digest(self.frozen, self.model)

    @cached_property
    def frozen(self) -> str:
        """Digest of the weights that training leaves alone."""
        return frozen_digest(self.model)

    @property
    def origin(self) -> ModelConfig | None:
        """How it was loaded: folder or hub id, precision, adapters. None where that is unknown."""
        return self.model.origin

    @property
    def name(self) -> str:
        """The folder or hub id that it was loaded from."""
        return str(getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__)

    @property
    def place(self) -> str:
        """As `name`."""
        return self.name

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.model.tokenizer

    def settings(self, kind: Kind = "language") -> Any:
        """The model's own configuration."""
        return self.model.config

    def context_length(self, kind: Kind = "language") -> int | None:
        """Positions that a sequence may have; None where unknown."""
        return self.model.context_length

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained in place of the model's own weights."""
        return hasattr(self.model.hf, "peft_config")

    def load(self, *, reference: bool = False, weights: Path | None = None) -> LanguageModel:
        """The model itself, with the weights of a checkpoint where there is one.

        Args:
            reference: keep a frozen copy of the weights as they are now.
            weights: the folder of a checkpoint.

        Raises:
            CheckpointError: the checkpoint is of a model with other weights.
        """
        if not isinstance(self.model, LanguageModel):
            raise ConfigError(
                f"model: {self.name} gives scores, and a language model is needed here"
            )
        model = self.model
        if weights is not None:
            self._hold()
        model.drop_reference()
        if reference:
            model.enable_reference()
        if weights is not None:
            if self.origin is not None:
                saved = NamedModel(self.origin).saved(weights)
            else:
                saved = load_model(str(weights), dtype="auto", device=str(model.device))
            self._take_all(saved, weights)
            model.load_reference(weights)
        return model

    def load_scores(
        self, *, per: Literal["sequence", "token"] | Classes, weights: Path | None = None
    ) -> ScoreModel:
        """The model itself, with the weights of a checkpoint where there is one."""
        if not isinstance(self.model, ScoreModel):
            raise ConfigError(
                f"model: {self.name} is a language model in memory; a score model starts from a "
                "folder or hub id (its head is fresh)"
            )
        has = getattr(self.model, "classes", None)
        if has != per and (has is not None or isinstance(per, Classes)):
            raise ConfigError(
                f"model: {self.name} in memory has the head {has or 'of one number'}, and {per} is "
                "to be trained; name a folder or hub id, whose head is then fresh"
            )
        if weights is not None:
            self._hold()
            saved = load_score_model(str(weights), per=per, device=str(self.model.device))
            self._take_all(saved, weights)
        return self.model

    def load_frozen(self) -> LanguageModel:
        """The model itself. Nothing trains it where it is a teacher or a judge."""
        return self.load()

    @property
    def has_critic(self) -> bool:
        """Whether the model has a critic."""
        return getattr(self.model, "critic", None) is not None

    def load_critic(self) -> ScoreModel:
        """The model's critic."""
        critic = getattr(self.model, "critic", None)
        assert critic is not None  # `has_critic` was asked before
        return critic

    def as_critic(self, *, adapters: bool = False) -> NamedModel:
        """The critic starts from the files that the model was loaded from."""
        return NamedModel(ModelConfig(self.place))

    # -- what a resume loads, and gives back where it is refused

    def begin_at(self, weights: Mapping[str, Tensor], place: Path | str) -> None:
        """Take the trained weights of a run's start, by name. place: where they are from."""
        self._hold()
        self._take(weights, place)
        self.__dict__.pop("digest", None)

    def begin_as(self, *, fresh_adapters: bool) -> None:
        """Take adapters as the run's own or as trained before it, as they were at its start."""
        if getattr(self.model, "fresh_adapters", fresh_adapters) != fresh_adapters:
            self._hold()
            self.model.fresh_adapters = fresh_adapters  # type: ignore[attr-defined]

    def give_back(self) -> None:
        """Bring back what the model held before a resume that was refused."""
        held, self._held = self._held, None
        self.__dict__.pop("digest", None)
        if held is None:
            return
        self._take(held.weights, "memory")
        for name, value in held.attributes.items():
            setattr(self.model, name, value)
        for name, table in held.ranks.items():
            rank_tables(self.model.hf)[name].clear()
            rank_tables(self.model.hf)[name].update(table)
        if self.has_adapters:
            self.model.hf.peft_config["default"].__dict__.update(held.adapter)
        self.model.train(held.training)

    def settle(self) -> None:
        """Keep what was loaded: the resume goes on."""
        self._held = None

    def _hold(self) -> None:
        """Remember what the model holds, and the digest of the start."""
        model, hf = self.model, self.model.hf
        _ = self.digest
        if self._held is not None:
            return
        adapter = vars(hf.peft_config["default"]) if self.has_adapters else {}
        self._held = _Held(
            trained_weights(model),
            {name: getattr(model, name) for name in _KEPT if hasattr(model, name)},
            {name: dict(table) for name, table in rank_tables(hf).items()},
            copy.copy(adapter),
            bool(hf.training),
        )

    def _take_all(self, saved: ForestModel, place: Path) -> None:
        """Take the trained weights of a saved model, and AdaLoRA's knowledge of its ranks."""
        _refuse_other_form(self.model, saved, place)
        self._take(dict(saved.hf.named_parameters()), place)
        for name, table in rank_tables(saved.hf).items():
            rank_tables(self.model.hf)[name].update(table)
        if rank_tables(saved.hf):
            config = self.model.hf.peft_config["default"]
            config.rank_pattern = saved.hf.peft_config["default"].rank_pattern

    def _take(self, weights: Mapping[str, Tensor], place: Path | str) -> None:
        trained = dict(_trained(self.model))
        for name, parameter in trained.items():
            if name not in weights or weights[name].shape != parameter.shape:
                raise _unlike(place, name, weights.get(name), parameter)
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])


def _refuse_other_form(model: ForestModel, saved: ForestModel, place: Path) -> None:
    """Refuse a saved model whose weights have other names or shapes.

    Raises:
        CheckpointError: names the first that differs.
    """
    ours, theirs = dict(model.hf.named_parameters()), dict(saved.hf.named_parameters())
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(name), theirs.get(name)
        if mine is None or other is None or mine.shape != other.shape:
            raise _unlike(place, name, other, mine)


def _unlike(
    place: Path | str, name: str, saved: Tensor | None, mine: Tensor | None
) -> CheckpointError:
    there, here = (
        "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
        for tensor in (saved, mine)
    )
    return CheckpointError(
        f"the model in memory does not fit {place}: {name} is {there} there, and {here} in the "
        "model; load the model as it was loaded at the start of the run"
    )


def _trained(model: ForestModel) -> Iterable[tuple[str, torch.nn.Parameter]]:
    return ((name, p) for name, p in model.hf.named_parameters() if p.requires_grad)


def frozen_digest(model: ForestModel) -> str:
    """Digest of the weights of a model in memory that training leaves alone."""
    return _digest((n, p) for n, p in model.hf.named_parameters() if not p.requires_grad)


def weights_digest(model: ForestModel) -> str:
    """Digest of all weights of a model in memory."""
    return _whole_digest(frozen_digest(model), model)


def _whole_digest(frozen: str, model: ForestModel) -> str:
    parts = f"{frozen} {_digest(_trained(model))}"
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def _digest(parameters: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in parameters:
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        flat: Any = parameter.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def trained_weights(model: ForestModel) -> dict[str, Tensor]:
    """A copy of the weights that training moves, by name."""
    return {name: p.detach().clone() for name, p in _trained(model)}
