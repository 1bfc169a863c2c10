"""A causal language model with its tokenizer: the object that is trained, asked and saved."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import ModelError
from posttrain.models import attention
from posttrain.models.attention import ForestPlan, without_mask
from posttrain.models.logprobs import Head, TokenScores, token_logprobs

_BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4}  # most relative error of a probe; 5e-2 for half precisions


class LanguageModel:
    """A Hugging Face causal language model that runs token forests.

    Attributes:
        hf: the PreTrainedModel, or a PeftModel around it. tokenizer: its tokenizer. device: where it is.
        weights_version: raised by whoever changes the weights; engines key their caches by it.
        shares_trunks: forests run as forests; else as one padded row per sequence, and `why_unshared` tells why.
        context_length: most positions the config allows, None where it names no limit.
    """

    def __init__(self, hf: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.hf = hf
        self.tokenizer = tokenizer
        self.weights_version = 0
        self.shares_trunks = False
        self.why_unshared: str | None = "not asked for"
        self._frozen: Any = None  # a frozen copy, where one was asked for
        self._active: Any = hf  # `hf`, or `_frozen` inside `reference()`

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.hf.parameters()).device

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The PreTrainedModel, with adapter layers inside where there are adapters."""
        return self._active.get_base_model() if self._is_peft(self._active) else self._active

    @property
    def base(self) -> torch.nn.Module:
        """The model below the vocabulary projection: input_ids [B, T] to hidden states [B, T, D]."""
        lm = self.causal_lm
        for candidate in (lm.get_decoder(), lm.base_model, getattr(lm, "model", None)):
            if candidate is not None and candidate is not lm:
                return candidate
        raise ModelError(f"{type(lm).__name__} has no part that yields hidden states below its vocabulary projection")

    @property
    def config(self) -> Any:
        """The config of the text model."""
        return self.causal_lm.config.get_text_config(decoder=True)

    @property
    def context_length(self) -> int | None:
        """Most positions that the config allows."""
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def head(self) -> Head:
        """The projection to the vocabulary, as it is now."""
        module: Any = self.causal_lm.get_output_embeddings()
        if hasattr(module, "modules_to_save"):  # PEFT trains a copy in full; switched off, the original counts
            off = module.disable_adapters
            module = module.original_module if off else module.modules_to_save[module.active_adapters[0]]
        config = self.config
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
        softcap = getattr(config, "final_logit_softcapping", None)
        return Head(module.weight, getattr(module, "bias", None), softcap, scale)

    def hidden(self, forest: Forest) -> torch.Tensor:
        """Last hidden states [N, D] of a forest's tokens."""
        forest = forest.to(self.device)
        if self.shares_trunks:
            return self._shared_hidden(forest, ForestPlan(forest))
        rows = forest.unshared()
        hidden = self._row_hidden(rows.ids)
        index = torch.zeros_like(forest.tokens)
        for row, (last, depth) in enumerate(zip(forest.last.tolist(), forest.positions[forest.last].tolist())):
            path = torch.nonzero(forest.ends[: last + 1] > last)[:, 0]
            index[path] = row * rows.ids.shape[1] + torch.arange(depth + 1, device=index.device)
        return hidden.flatten(0, 1)[index]

    def forward(
        self, forest: Forest, needs: Collection[str] = ("logprobs",), *, temperature: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """What losses ask for, per target.

        Args:
            forest: a micro-batch; it is moved to the model's device.
            needs: of {"logprobs", "entropy", "ref_logprobs"}; other names are somebody else's and ignored. With
                "entropy_gradient" the entropy carries one.
            temperature: what logits are divided by, for the reference too.
        Returns:
            [M] each, float32, nats. ref_logprobs are the reference's and carry no gradient. "correct" (bool) comes with
            the log-probs: whether the target is the likeliest token.
        """
        forest = forest.to(self.device)
        found: dict[str, torch.Tensor] = {}
        if "ref_logprobs" in needs:
            with torch.no_grad(), self.reference():
                found["ref_logprobs"] = self._scores(forest, temperature, frozenset()).logprobs
        if not {"logprobs", "entropy", "entropy_gradient"}.isdisjoint(needs):
            scores = self._scores(forest, temperature, needs)
            found |= {"logprobs": scores.logprobs, "correct": scores.correct}
            if scores.entropy is not None:
                found["entropy"] = scores.entropy
        return found

    __call__ = forward

    def _scores(self, forest: Forest, temperature: float, needs: Collection[str]) -> TokenScores:
        if self.shares_trunks:
            hidden = self._shared_hidden(forest, ForestPlan(forest)).index_select(0, forest.source)
        else:
            rows = forest.unshared()
            hidden = self._row_hidden(rows.ids).flatten(0, 1).index_select(0, rows.source)
        entropy: Literal["none", "value", "gradient"] = "none"
        if "entropy_gradient" in needs or "entropy" in needs:
            entropy = "gradient" if "entropy_gradient" in needs else "value"
        return token_logprobs(hidden, self.head, forest.target, temperature=temperature, entropy=entropy)

    def _shared_hidden(self, forest: Forest, plan: ForestPlan) -> torch.Tensor:
        return self.base(
            input_ids=forest.tokens[None],
            position_ids=forest.positions[None],
            attention_mask=without_mask(self.device),
            use_cache=False,
            attention_plan=plan,
        ).last_hidden_state[0]

    def _row_hidden(self, ids: torch.Tensor) -> torch.Tensor:
        # Padding is on the right, where a causal model cannot see it: no mask, and the fused kernels stay available.
        return self.base(input_ids=ids, use_cache=False).last_hidden_state

    def prefill(self, forest: Forest) -> tuple[torch.Tensor, ForestPlan]:
        """Hidden states [N, D] and a plan whose `kv[layer]` holds each layer's keys and values [1, Hkv, N, D].

        Raises:
            ModelError: the model does not share trunks.
        """
        if not self.shares_trunks:
            raise ModelError(f"this model cannot run a forest ({self.why_unshared}); give it padded rows")
        forest = forest.to(self.device)
        plan = ForestPlan(forest, keep_kv=True)
        return self._shared_hidden(forest, plan), plan

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the model is its reference: adapters switched off, or the frozen copy; dropout is off.

        Raises:
            ModelError: full fine-tuning without `enable_reference()`.
        """
        if self._frozen is not None:
            self._active = self._frozen
            try:
                yield
            finally:
                self._active = self.hf
        elif self._is_peft(self.hf):
            with evaluating(self.hf), self.hf.disable_adapter():
                yield
        else:
            raise ModelError(
                "this model has no reference: call enable_reference() before training (it keeps a frozen copy), "
                "or train adapters, whose base is the reference"
            )

    def enable_reference(self) -> None:
        """Keep a frozen copy of the weights as they are now; with adapters nothing is copied, their base serves."""
        if self._is_peft(self.hf) or self._frozen is not None:
            return
        self._frozen = copy.deepcopy(self.hf).eval().requires_grad_(False)

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that require gradients."""
        return [p for p in self.hf.parameters() if p.requires_grad]

    def train(self, mode: bool = True) -> LanguageModel:
        """Training mode: dropout on."""
        self.hf.train(mode)
        return self

    def eval(self) -> LanguageModel:
        """Evaluation mode: dropout off."""
        return self.train(False)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each layer in the backward pass: less memory, about a third more time."""
        lm: Any = self.causal_lm
        enable = getattr(lm, "activation_checkpointing_enable", lm.gradient_checkpointing_enable)  # the newer name first
        enable({"use_reentrant": False})

    def save(self, folder: str | Path) -> None:
        """Write weights, config, tokenizer and chat template; adapters alone in PEFT's format."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.hf.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def share_trunks(self) -> None:
        """Run forests as forests, if a probe finds that this gives what plain forwards give; else say why not."""
        lm = self.causal_lm
        before = lm.config._attn_implementation
        self.why_unshared = None
        try:
            if lm._can_set_attn_implementation():
                lm.set_attn_implementation(attention.NAME)
                self.why_unshared = self._probe()
            else:
                self.why_unshared = f"the attention of {type(lm).__name__} cannot be replaced"
        except Exception as error:  # whatever a foreign architecture raises on a forest is the answer
            self.why_unshared = f"a forest fails with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        self.shares_trunks = self.why_unshared is None
        if not self.shares_trunks and lm.config._attn_implementation != before:
            lm.set_attn_implementation(before)

    def keep_unshared(self, why: str) -> None:
        """Run forests as padded rows."""
        self.shares_trunks, self.why_unshared = False, why

    def check_head(self) -> None:
        """Compare the model's own logits with `head` over `hidden`, on a few tokens.

        Raises:
            ModelError: they differ, so the architecture does something between the two that is not known here.
        """
        ids = torch.arange(min(5, self.config.vocab_size), device=self.device)[None]
        with evaluating(self.hf), torch.no_grad(), torch.random.fork_rng(_devices(self.device)):
            theirs = self.causal_lm(input_ids=ids, use_cache=False).logits[0]
            hidden = self._row_hidden(ids)[0]
            ours = self.head.logits(hidden)
        if not _relative_error(ours, theirs) <= _BOUNDS.get(hidden.dtype, 5e-2):
            raise ModelError(
                f"{type(self.causal_lm).__name__} computes its logits in a way that is not known here "
                f"(a vocabulary projection with bias, scale and soft-cap gives others); it is not supported"
            )

    def _probe(self) -> str | None:
        """Why a small forest does not give what plain forwards give, or None where it does."""
        config = self.config
        layer_types = set(getattr(config, "layer_types", None) or [])
        if foreign := layer_types - {"full_attention", "sliding_attention"}:
            return f"it has {min(foreign)} layers"
        window = getattr(config, "sliding_window", None)
        trunk = 6 if window is None or window > 64 else window + 3
        limit = self.context_length or 1 << 30
        forest, sequences = _probe_forest(config.vocab_size, min(trunk, max(2, limit - 8)))
        forest = forest.to(self.device)
        plan = ForestPlan(forest)
        with evaluating(self.hf), torch.no_grad(), torch.random.fork_rng(_devices(self.device)):
            together = self._shared_hidden(forest, plan)
            alone = torch.cat([self._row_hidden(s.to(self.device)[None])[0] for s in sequences])
        paths = torch.cat([torch.nonzero(forest.ends[: int(x) + 1] > x)[:, 0] for x in forest.last])
        if (passed_by := config.num_hidden_layers - len(plan.layers)) > 0:
            return f"{passed_by} of its layers do not attend through transformers' attention interface"
        if window is not None and "sliding_attention" in layer_types and not plan.windows:
            return "its sliding windows lie in a mask that a forest cannot carry"
        worst, bound = _relative_error(together[paths], alone), _BOUNDS.get(together.dtype, 5e-2)
        if not worst <= bound:
            return f"a small forest differs from plain forwards by {worst:.1e} (bound {bound:.0e})"
        return None

    @staticmethod
    def _is_peft(model: Any) -> bool:
        return hasattr(model, "get_base_model")


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode within, and every submodule's own mode back afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode


def _relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.double()
    return float((found.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _probe_forest(vocab_size: int, trunk: int) -> tuple[Forest, list[torch.Tensor]]:
    """A trunk with three leaves and a branch below one of them, of arbitrary valid ids; no random state is touched."""
    draw = np.random.default_rng(0)

    def some(count: int) -> list[int]:
        return draw.integers(0, vocab_size, count).tolist()

    stem, fork = some(trunk), some(3)
    lists = [stem + some(4), stem + some(2), stem + fork + some(2), stem + fork + some(1)]
    sequences = [TokenSequence(np.array(ids), np.arange(len(ids)) > 0) for ids in lists]
    other = TokenSequence(np.array(some(5)), np.arange(5) > 0)
    forest = Forest.pack([Tree.build([other], min_shared=1), Tree.build(sequences, min_shared=1)])
    return forest, [torch.tensor(other.ids), *(torch.tensor(ids) for ids in lists)]
