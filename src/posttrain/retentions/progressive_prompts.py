"""Progressive prompts: a soft prompt per stage, before the frozen ones of all earlier stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.models.peft_kind import adapter_kind
from posttrain.models.virtual_tokens import put_behind, save_joined
from posttrain.registry import retentions
from posttrain.retentions.base import Retention, Stage
from posttrain.training.plan import Plan


class ProgressivePrompts(Retention):
    """The prompts of earlier stages stay before every sequence, and a fresh one is trained.

    Attributes:
        prompts: [n, D], of the stages that are done, the newest first.
    """

    def __init__(self) -> None:
        self.prompts: Tensor | None = None

    def begin(self, stage: Stage) -> Plan:
        """Freeze what is learnt, and begin a prompt at random tokens of the vocabulary."""
        table = _table(stage.model)
        if self.prompts is not None:
            put_behind(stage.model.hf, self.prompts)
            vocabulary: Any = stage.model.pretrained.get_input_embeddings()
            embeddings = vocabulary.weight.detach()
            draw = np.random.default_rng((stage.seed, stage.number, 19))
            chosen = draw.choice(len(embeddings), len(table), replace=len(embeddings) < len(table))
            with torch.no_grad():
                table.copy_(embeddings[torch.from_numpy(chosen).to(embeddings.device)])
            stage.model.weights_version += 1
        return stage.plan

    def end(self, stage: Stage) -> None:
        """Remember the stage's prompt."""
        new = _table(stage.model).detach().float().clone()
        self.prompts = new if self.prompts is None else torch.cat([new, self.prompts.to(new)])

    def restore(self, stage: Stage) -> None:
        """The prompts of the stages before this one."""
        assert self.prompts is not None
        earlier = self.prompts[len(_table(stage.model)) :]
        put_behind(stage.model.hf, earlier if len(earlier) else None)

    def save(self, model: LanguageModel, folder: Path) -> None:
        """Write all prompts as one, which PEFT opens."""
        save_joined(model, folder)

    def state(self) -> dict[str, Tensor]:
        """The prompts."""
        return {} if self.prompts is None else {"prompts": self.prompts}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore the prompts."""
        self.prompts = state.get("prompts")


def _table(model: LanguageModel) -> Any:
    """The trained prompt [n, D].

    Raises:
        ConfigError: the model has none.
    """
    if adapter_kind(model.hf) != "PROMPT_TUNING":
        raise ConfigError(
            "progressive_prompts: the model has no soft prompt; load it with "
            "adapter=pt.Adapter('prompt'), or choose another retention method"
        )
    return model.hf.prompt_encoder["default"].embedding.weight


@retentions.register
def progressive_prompts() -> Retention:
    """Progressive prompts (arXiv 2301.12314), for a model with prompt tuning.

    [P_t, P_{t-1}, ..., P_1, x]

    The model is frozen. Stage t trains its soft prompt P_t before those of all earlier stages,
    which are frozen too. All prompts stand before every sequence, so that what a stage has learnt
    is there for the later ones, and the context grows shorter by a prompt per stage.
    """
    return ProgressivePrompts()
