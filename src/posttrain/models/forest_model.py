"""A Hugging Face model that runs token forests: the base of language models and score models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain import kernels
from posttrain.config import ModelConfig
from posttrain.data.forest import Forest, TrunkShare
from posttrain.errors import ModelError
from posttrain.models import attention
from posttrain.models.adapter_state import save_state
from posttrain.models.attention import ForestPlan, without_mask
from posttrain.models.curlora import plain_state
from posttrain.models.embeddings import EmbeddingNoise, EmbeddingTransform
from posttrain.models.kept_trunk import KeptTrunk, LeafPlan, TrunkPlan, leaves_of, trunk_of
from posttrain.models.peft_kind import is_peft
from posttrain.models.probe import disagreement
from posttrain.models.program import Program
from posttrain.models.program import cuda_devices as cuda_devices
from posttrain.models.program import evaluating as evaluating
from posttrain.models.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from posttrain.models.sharding import Sharding


class ForestModel:
    """A Hugging Face model with its tokenizer, whose trunk runs token forests.

    Attributes:
        program: the transformers model as one module; each pass is one call of it. hf: the
        PreTrainedModel, or a PeftModel around it. tokenizer: its tokenizer. device: where it is.
        shares_trunks: forests run as forests; else as one padded row per sequence, and
        `why_unshared` gives the reason.
        uses_kernels: a fast trunk stands in for the model's own layers where there is one
        (`kernels.for_model`).
        transforms: what embeddings go through, in order (`models.embeddings`): noise in training,
        and virtual tokens.
        rate_factors: factors of the learning rates of single parameters, where they are not 1.
        context_length: most positions the config allows for a sequence, None where it names no
        limit.
        sharding: how it lies in shares in several processes; None where each has all of it.
        origin: how it was loaded: folder or hub id, precision, adapters; None where that is
        unknown.
    """

    def __init__(self, hf: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.program = Program(hf)
        self.tokenizer = tokenizer
        self.shares_trunks = False
        self.why_unshared: str | None = "not asked for"
        self.uses_kernels = True
        self.rate_factors: dict[torch.nn.Parameter, float] = {}
        self.origin: ModelConfig | None = None
        self._noise = EmbeddingNoise()
        self.transforms: list[EmbeddingTransform] = [self._noise]
        self.sharding: Sharding | None = None
        # Trunks that micro-batches share, of the model and of its reference.
        self._kept: dict[str, KeptTrunk] = {}
        self._slot = "model"
        # What runs: `program`, or within a language model's `reference()` a frozen copy.
        self._active = self.program

    @property
    def hf(self) -> Any:
        """The PreTrainedModel, or a PeftModel around it."""
        return self.program.hf

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.hf.parameters()).device

    @property
    def pretrained(self) -> PreTrainedModel:
        """The PreTrainedModel, with adapter layers inside where there are adapters."""
        hf = self._active.hf
        return hf.get_base_model() if is_peft(hf) else hf

    @property
    def base(self) -> torch.nn.Module:
        """The model below its last projection: input_ids [B, T] to hidden states [B, T, D]."""
        lm: Any = self.pretrained
        for candidate in (lm.get_decoder(), lm.base_model, getattr(lm, "model", None)):
            if candidate is not None and candidate is not lm:
                return candidate
        raise ModelError(
            f"{type(lm).__name__} has no part that yields hidden states below its last projection"
        )

    @property
    def config(self) -> Any:
        """The config of the text model."""
        return self.pretrained.config.get_text_config(decoder=True)

    @property
    def context_length(self) -> int | None:
        """Most positions that the config allows."""
        limit = getattr(self.config, "max_position_embeddings", None)
        return limit if limit is None else limit - self.num_virtual_tokens

    def __repr__(self) -> str:
        parameters = list(self.hf.parameters())
        total, trained = sum(p.numel() for p in parameters), self.trainable_parameters()
        number = sum(p.numel() for p in trained)
        part = "" if number == total else f", {number:,} of them trained"
        place = getattr(self.config, "_name_or_path", "") or self.config.model_type
        dtype = str(next(iter(parameters)).dtype).removeprefix("torch.")
        return (
            f"{type(self).__name__}({place!r}, {total:,} parameters{part}, {dtype} on "
            f"{self.device})"
        )

    @property
    def neftune_noise_alpha(self) -> float:
        """How much noise is put on the embeddings in training mode (`EmbeddingNoise`), 0 = none."""
        return self._noise.alpha

    @neftune_noise_alpha.setter
    def neftune_noise_alpha(self, alpha: float) -> None:
        self._noise.alpha = alpha

    @property
    def virtual(self) -> VirtualTokens | None:
        """Trained tokens that stand before every sequence, None without."""
        return next((t for t in self.transforms if isinstance(t, VirtualTokens)), None)

    @virtual.setter
    def virtual(self, tokens: VirtualTokens | None) -> None:
        others = [t for t in self.transforms if not isinstance(t, VirtualTokens)]
        self.transforms = others if tokens is None else [*others, tokens]

    @property
    def num_virtual_tokens(self) -> int:
        """Trained tokens before every sequence."""
        return 0 if self.virtual is None else self.virtual.count

    def hidden(self, forest: Forest) -> torch.Tensor:
        """Last hidden states [N, D] of a forest's tokens."""
        return self._active(self._hidden, forest.to(self.device))

    def rows_at(self, forest: Forest, *, sources: bool) -> torch.Tensor:
        """Hidden states [M, D] at the targets' sources (what predicts them), or at the targets
        themselves.
        """
        return self._active(self._rows_at, forest, sources=sources)

    def _hidden(self, forest: Forest) -> torch.Tensor:
        if self.shares_trunks:
            return self._shared_hidden(forest)[0]
        rows = forest.unshared()
        hidden = self._row_hidden(rows.ids, rows.mask)
        index = torch.zeros_like(forest.tokens)
        for row, (last, depth) in enumerate(
            zip(forest.last.tolist(), forest.positions[forest.last].tolist())
        ):
            path = torch.nonzero(forest.ends[: last + 1] > last)[:, 0]
            index[path] = row * rows.ids.shape[1] + torch.arange(depth + 1, device=index.device)
        return hidden.flatten(0, 1)[index]

    def _rows_at(self, forest: Forest, *, sources: bool) -> torch.Tensor:
        if self.shares_trunks:
            index = forest.source if sources else forest.place
            noisy = self._noise.is_active(training=self._active.hf.training)
            if forest.trunk is None or noisy:
                return self._shared_hidden(forest)[0].index_select(0, index)
            return self._below_kept(forest, forest.trunk).index_select(0, index)
        rows = forest.unshared()
        return (
            self._row_hidden(rows.ids, rows.mask)
            .flatten(0, 1)
            .index_select(0, rows.source if sources else rows.place)
        )

    def _below_kept(self, micro: Forest, share: TrunkShare) -> torch.Tensor:
        """Hidden states [N, D] of a micro-batch, those of its trunk from where they are kept."""
        kept, count = self._kept.get(self._slot), self.num_virtual_tokens
        if kept is None or kept.key is not share.key:
            trunk = trunk_of(micro, share.count)
            states, plan = self._shared_hidden(trunk, plan=TrunkPlan)
            assert isinstance(plan, TrunkPlan)
            kept = KeptTrunk(share.key, states, plan)
            self._kept[self._slot] = kept
        if share.is_last and not torch.is_grad_enabled():
            del self._kept[self._slot]
        hidden = kept.hidden
        if micro.num_tokens == share.count:
            return hidden
        leaves = leaves_of(micro, share.count, shift=count)
        below = self._hidden_below(leaves, LeafPlan(leaves, kept.kv))
        return torch.cat([hidden.to(below.dtype), below])

    @kernels.computing()
    def _shared_hidden(
        self, forest: Forest, *, plan: Callable[..., ForestPlan] = ForestPlan
    ) -> tuple[torch.Tensor, ForestPlan]:
        """Hidden states [N, D] and the plan that computed them, in which virtual tokens stand
        before the forest's. plan: makes it.
        """
        virtual, count = self.virtual, self.num_virtual_tokens
        prefix = virtual.keys_and_values() if virtual is not None else None
        rooted = forest.below(count) if count else forest
        made = plan(rooted, prefix=prefix)
        trunk = kernels.for_model(self.base, made) if self.uses_kernels else None
        transforms = self._active_transforms
        if trunk is None and not transforms:
            hidden = self._own_hidden(made, rooted, input_ids=forest.tokens[None])
        else:
            embedded = self._embedded(forest.tokens, transforms, forest.lengths)
            if trunk is None:
                hidden = self._own_hidden(made, rooted, inputs_embeds=embedded[None])
            else:
                hidden = trunk(embedded, rooted.positions, made)
        return hidden[count:], made

    @kernels.computing()
    def _hidden_below(self, forest: Forest, plan: ForestPlan) -> torch.Tensor:
        """Hidden states [N, D] of a forest below keys and values that were computed before, those
        of virtual tokens too.
        """
        trunk = kernels.for_model(self.base, plan) if self.uses_kernels else None
        if trunk is None:
            return self._own_hidden(plan, forest, input_ids=forest.tokens[None])
        embedded = self.pretrained.get_input_embeddings()(forest.tokens)
        return trunk(embedded, forest.positions, plan)

    def _own_hidden(self, plan: ForestPlan, forest: Forest, **inputs: torch.Tensor) -> torch.Tensor:
        """Last hidden states [N, D] by the model's own layers."""
        outputs = self.base(
            **inputs,
            position_ids=forest.positions[None],
            attention_mask=without_mask(self.device),
            use_cache=False,
            attention_plan=plan,
        )
        return outputs.last_hidden_state[0]

    @kernels.computing(accelerated=False)
    def _row_hidden(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Last hidden states [B, T, D] of padded rows; without a mask nothing transforms the
        embeddings.
        """
        # Padding is on the right, where a causal model cannot see it: the model gets no mask, and
        # the fused kernels stay available.
        transforms = self._active_transforms if mask is not None else []
        if mask is None or not transforms:
            return self.base(input_ids=ids, use_cache=False).last_hidden_state
        lengths = mask.sum(1, keepdim=True).expand_as(ids)
        embedded = self._embedded(ids, transforms, lambda: lengths)
        return self.base(inputs_embeds=embedded, use_cache=False).last_hidden_state

    @property
    def _active_transforms(self) -> list[EmbeddingTransform]:
        return [t for t in self.transforms if t.is_active(training=self._active.hf.training)]

    def _embedded(
        self,
        ids: torch.Tensor,
        transforms: Sequence[EmbeddingTransform],
        lengths: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        """Embeddings of ids after all transforms; lengths: of the sequences of each token."""
        embedded = self.pretrained.get_input_embeddings()(ids)
        for transform in transforms:
            embedded = transform(embedded, lengths())
        return embedded

    def backward(self, loss: torch.Tensor, micro: Forest | None = None) -> None:
        """The backward pass of a loss, accelerated where all trunks are shared.

        micro: what the loss was computed on. After the last of the micro-batches that share a
        trunk the pass goes on through the trunk.

        Of a model in shares the gradients are sums over processes: FSDP's mean of a loss that is
        multiplied by their number.

        All attention is then by kernels that choose their own matrix products, except for windows
        that bite. There the kernel's backward pass is slower, and the whole of both passes still
        faster (0.50 to 0.38 s, windows of 64 in rows of 40 to 500).
        """
        if self.sharding is not None:
            loss = loss * self.sharding.size
        with kernels.computing(accelerated=self._accelerates_backward):
            loss.backward()
            if micro is not None and micro.trunk is not None and micro.trunk.is_last:
                self._finish_trunk()

    def _finish_trunk(self) -> None:
        """The backward pass of the trunk that is kept; what is kept is dropped."""
        for kept in self._kept.values():
            kept.backward()
        self._kept.clear()

    @property
    def _accelerates_backward(self) -> bool:
        return self.shares_trunks

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that require gradients."""
        return [p for p in self.hf.parameters() if p.requires_grad]

    def train(self, mode: bool = True) -> ForestModel:
        """Training mode: dropout on."""
        self.hf.train(mode)
        return self

    def eval(self) -> ForestModel:
        """Evaluation mode: dropout off."""
        return self.train(False)

    def share_among(self, sharding: Sharding) -> None:
        """Keep a share of the weights in each process."""
        before = list(self.hf.parameters())
        self.sharding = sharding
        sharding.shard(self.program, self._first_pass)
        moved = dict(zip(before, self.hf.parameters(), strict=True))
        self.rate_factors = {moved.get(p, p): f for p, f in self.rate_factors.items()}

    def end_sharing(self) -> None:
        """Bring all weights into every process again."""
        if self.sharding is not None:
            self.sharding.end()
        self.sharding = None

    def _first_pass(self) -> torch.Tensor:
        ids = torch.arange(min(4, self.config.vocab_size), device=self.device)
        return self._active(self._row_hidden, ids[None])

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each layer in the backward pass: less memory, about a third more time."""
        lm: Any = self.pretrained
        # The newer name first.
        enable = getattr(lm, "activation_checkpointing_enable", lm.gradient_checkpointing_enable)
        enable({"use_reentrant": False})

    def save(self, folder: str | Path) -> None:
        """Write weights, config, tokenizer and chat template; adapters alone in PEFT's format."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        plain = plain_state(self.hf)
        self.hf.save_pretrained(folder, **({} if plain is None else {"state_dict": plain}))
        save_state(self.hf, folder)
        self.tokenizer.save_pretrained(folder)

    def save_for_resume(self, folder: str | Path) -> None:
        """Write what a checkpoint needs: the files of `save`, and whatever does not follow from
        them.
        """
        self.save(folder)

    def share_trunks(self) -> None:
        """Run forests as forests, if a probe agrees with plain forward passes; else set
        `why_unshared`.
        """
        lm = self.pretrained
        before = lm.config._attn_implementation
        self.why_unshared = None
        try:
            if lm._can_set_attn_implementation():
                attention.register()
                lm.set_attn_implementation(attention.NAME)
                self.why_unshared = self._probe_failure()
                if self.why_unshared is not None and self.uses_kernels:
                    # The layers may not be of the kind that they seem to be.
                    self.uses_kernels = False
                    self.why_unshared = self._probe_failure()
            else:
                self.why_unshared = f"the attention of {type(lm).__name__} cannot be replaced"
        except Exception as error:
            self.why_unshared = _failure(error)
        self.shares_trunks = self.why_unshared is None
        if not self.shares_trunks and lm.config._attn_implementation != before:
            lm.set_attn_implementation(before)

    def keep_unshared(self, why: str) -> None:
        """Run forests as padded rows."""
        self.shares_trunks, self.why_unshared = False, why

    def _probe_failure(self) -> str | None:
        try:
            return disagreement(self)
        except Exception as error:  # a foreign architecture may raise anything on a forest
            return _failure(error)


def _failure(error: Exception) -> str:
    return f"a forest fails with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
