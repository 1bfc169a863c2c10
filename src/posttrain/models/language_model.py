"""A causal language model with its tokenizer: the object that is trained, asked and saved."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from posttrain import kernels
from posttrain.data.forest import Forest
from posttrain.errors import ModelError
from posttrain.kernels.agreement import bound_of, relative_error
from posttrain.models.adapters import keeps_base
from posttrain.models.attention import ForestPlan
from posttrain.models.forest_model import ForestModel, cuda_devices, evaluating
from posttrain.models.logprobs import Head
from posttrain.models.outputs import OWN_OUTPUTS, Compared, Predictions, compared, own_outputs
from posttrain.models.peft_kind import is_peft
from posttrain.models.prefixed_attention import Block, PrefixedPlan
from posttrain.models.program import Program
from posttrain.models.score_model import ScoreModel
from posttrain.models.virtual_tokens import virtual_tokens
from posttrain.models.vocabulary import DERIVED, DISTRIBUTIONS, FOREIGN, Vocabulary

REFERENCE = "reference.safetensors"

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LanguageModel(ForestModel):
    """A Hugging Face causal language model that runs token forests.

    Attributes:
        weights_version: raised by whoever changes the weights; engines key their caches by it.
        critic: a model of values that is trained beside this one and saved in the folder `critic`
        of its own, or None.
        teacher: a frozen language model with the same vocabulary that losses compare this one with,
        or None.
        foreign: the same with another vocabulary (`models.foreign`), or None.
        reference_updates: how often the reference has been moved since it was the model of the
        start.
        fresh_adapters: whether the adapters, if any, began with the run. If they were trained
        before, the run starts from base and adapters together, which is then the reference.
    """

    def __init__(self, hf: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(hf, tokenizer)
        self.weights_version = 0
        self.critic: ScoreModel | None = None
        self.teacher: LanguageModel | None = None
        self.foreign: Any = None
        self.reference_updates = 0
        self.fresh_adapters = True
        self._frozen: Program | None = None  # a frozen copy, where one was asked for

    @property
    def head(self) -> Head:
        """The projection to the vocabulary, as it is now."""
        module: Any = self.pretrained.get_output_embeddings()
        if hasattr(module, "modules_to_save"):
            # PEFT trains a copy in full; with adapters switched off, the original counts.
            if module.disable_adapters:
                module = module.original_module
            else:
                module = module.modules_to_save[module.active_adapters[0]]
        config = self.config
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        softcap = getattr(config, "final_logit_softcapping", None)
        return Head(module.weight, getattr(module, "bias", None), softcap, scale)

    def forward(
        self, forest: Forest, needs: Collection[str] = ("logprobs",), *, temperature: float = 1.0
    ) -> dict[str, Any]:
        """What losses ask for, per target.

        Args:
            forest: a micro-batch; it is moved to the model's device.
            needs: of {"logprobs", "entropy", "ref_logprobs", "teacher_logprobs", "values"} and the
            whole distributions (see `models.vocabulary`). Other names are ignored. With
            "entropy_gradient" the entropy carries a gradient.
            temperature: what logits are divided by, for reference and teacher too.
        Returns:
            [M] each, float32, nats. Outputs of the reference and the teacher carry no gradient.
            "correct" (bool) comes with the log-probs: whether the target is the likeliest token.
            "values" are the critic's, of the state in which each target was chosen. "vocabulary" is
            a `Vocabulary` over the distributions that were asked for.
        """
        forest = forest.to(self.device)
        seen = forest.beside or forest  # by reference and teacher
        # What the batch carries already is not computed again.
        names = set(needs) - forest.streams.keys()
        distributions = DISTRIBUTIONS & {n for need in names for n in DERIVED.get(need, (need,))}
        requested = names | distributions
        rows: dict[str, Predictions] = {}  # of models whose distributions are needed
        outputs: dict[str, Any] = {}
        if not {"ref_logprobs", "ref_distribution"}.isdisjoint(requested):
            with torch.no_grad(), self.reference():
                rows["ref_distribution"], outputs["ref_logprobs"] = self._active(
                    self._compared, seen, temperature, scored="ref_logprobs" in names
                )
        if not {"teacher_logprobs", "teacher_distribution"}.isdisjoint(requested):
            with torch.no_grad():
                rows["teacher_distribution"], outputs["teacher_logprobs"] = self._of_teacher(
                    seen, temperature, scored="teacher_logprobs" in names
                )
        if FOREIGN in distributions:
            rows[FOREIGN], outputs["aligned"] = self._foreign_rows(forest)
        outputs = {name: numbers for name, numbers in outputs.items() if numbers is not None}
        if distributions or not OWN_OUTPUTS.isdisjoint(names):
            others = {name: rows[name] for name in distributions if name in rows}
            outputs |= self._active(self._own, forest, names, temperature, distributions, others)
        if "values" in names:
            if self.critic is None:
                raise ModelError("a loss asks for values and there is no critic")
            outputs["values"] = self.critic.values(forest)
        return outputs

    __call__ = forward

    def predictions(self, forest: Forest) -> Predictions:
        """Hidden states [M, D] that predict a forest's targets, and the head that reads them."""
        rows: Predictions = self._active(self._predictions, forest.to(self.device))
        return rows

    def _predictions(self, forest: Forest) -> Predictions:
        return self._rows_at(forest, sources=True), self.head

    def _compared(self, forest: Forest, temperature: float, *, scored: bool) -> Compared:
        return compared(self._predictions(forest), forest, temperature, scored=scored)

    def _own(
        self,
        forest: Forest,
        names: Collection[str],
        temperature: float,
        distributions: Collection[str],
        others: dict[str, Predictions],
    ) -> dict[str, Any]:
        """Outputs of the trained model; its distributions lie beside those of other models."""
        rows = self._predictions(forest)
        outputs: dict[str, Any] = own_outputs(*rows, forest, names, temperature)
        if distributions:
            by_name = {**others, "distribution": rows}
            chosen = {name: by_name[name] for name in sorted(distributions)}
            vocabulary = outputs["vocabulary"] = Vocabulary(chosen, temperature)
            for name in sorted(DERIVED.keys() & names):
                outputs[name] = vocabulary.derived(name)
        return outputs

    def _foreign_rows(self, forest: Forest) -> tuple[Predictions, torch.Tensor]:
        """What predicts the targets under the teacher with another vocabulary; which targets it
        has.
        """
        if self.foreign is None:
            raise ModelError("a loss asks for a teacher with another vocabulary and there is none")
        with torch.no_grad():
            hidden, head, aligned = self.foreign.rows(forest)
        return (hidden, head), aligned

    def _of_teacher(self, forest: Forest, temperature: float, *, scored: bool) -> Compared:
        teacher = self.teacher
        if teacher is None:
            raise ModelError("a loss asks for a teacher and there is none")
        numbers: Compared = teacher._active(
            teacher._compared, forest.to(teacher.device), temperature, scored=scored
        )
        return numbers

    @property
    def _others(self) -> list[ForestModel]:
        """The models beside this one."""
        return [m for m in (self.critic, self.teacher) if m is not None]

    def _finish_trunk(self) -> None:
        super()._finish_trunk()
        for other in self._others:
            other._finish_trunk()

    def share_among(self, sharding: Any) -> None:
        """Keep a share of the weights in each process: of the reference, the critic and the
        teacher too, each for itself.
        """
        factors: dict[torch.nn.Parameter, float] = {}
        for other in self._others:
            before = list(other.hf.parameters())
            other.share_among(sharding)
            moved = dict(zip(before, other.hf.parameters(), strict=True))
            factors |= {moved[p]: f for p, f in self.rate_factors.items() if p in moved}
        if self._frozen is not None:
            with self.reference():
                sharding.shard(self._frozen, self._first_pass)
        super().share_among(sharding)
        self.rate_factors |= factors

    def end_sharing(self) -> None:
        """Bring all weights into every process again, of the models beside this one too."""
        super().end_sharing()
        for other in self._others:
            other.sharding = None

    @property
    def _accelerates_backward(self) -> bool:
        return self.shares_trunks and (self.critic is None or self.critic.shares_trunks)

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that require gradients, the critic's included."""
        return super().trainable_parameters() + (
            self.critic.trainable_parameters() if self.critic is not None else []
        )

    def train(self, mode: bool = True) -> LanguageModel:
        """Training mode: dropout on, in the critic too."""
        super().train(mode)
        if self.critic is not None:
            self.critic.train(mode)
        return self

    def eval(self) -> LanguageModel:
        """Evaluation mode: dropout off."""
        return self.train(False)

    def save(self, folder: str | Path) -> None:
        """Write weights, config, tokenizer and chat template; adapters alone in PEFT's format;
        a critic in `critic/`.
        """
        super().save(folder)
        if self.critic is not None:
            self.critic.save(Path(folder) / "critic")

    def prefill(
        self, forest: Forest, blocks: Sequence[Block] = ()
    ) -> tuple[torch.Tensor, ForestPlan]:
        """Hidden states [N, D] and a plan whose `kv[layer]` holds each layer's keys and values [1,
        Hkv, n + N, D].

        The first n are those of virtual tokens, which every sequence sees; most models have none.

        Args:
            blocks: keys and values above the forest, computed before. Then n = 0, the forest's
            positions count what is above it, and virtual tokens are blocks.
        Raises:
            ModelError: the model does not share trunks.
        """
        if not self.shares_trunks:
            raise ModelError(
                f"this model cannot run a forest ({self.why_unshared}); give it padded rows"
            )
        forest = forest.to(self.device)
        if blocks:
            below = PrefixedPlan(forest, blocks)
            return self._active(self._hidden_below, forest, below), below
        computed: tuple[torch.Tensor, ForestPlan] = self._active(
            self._shared_hidden, forest, plan=partial(ForestPlan, keep_kv=True)
        )
        return computed

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the model is its reference: adapters switched off, or the frozen copy; dropout
        is off.

        Raises:
            ModelError: full fine-tuning without `enable_reference()`.
        """
        with self._switched():
            self._slot = "reference"
            try:
                yield
            finally:
                self._slot = "model"

    @contextlib.contextmanager
    def _switched(self) -> Iterator[None]:
        if self._frozen is not None:
            virtual, self.virtual = self.virtual, virtual_tokens(self._frozen.hf)
            self._active = self._frozen
            try:
                yield
            finally:
                self._active, self.virtual = self.program, virtual
        elif self.base_is_reference:
            virtual, self.virtual = self.virtual, None
            try:
                with evaluating(self.hf), self.hf.disable_adapter():
                    yield
            finally:
                self.virtual = virtual
        else:
            raise ModelError(
                "this model has no reference: call enable_reference() before training (it keeps a "
                "frozen copy), "
                "or train adapters, whose base is the reference"
            )

    @property
    def base_is_reference(self) -> bool:
        """Whether the model of the start is this one with its adapters switched off."""
        return self.fresh_adapters and is_peft(self.hf) and keeps_base(self.hf)

    def enable_reference(self) -> None:
        """Keep a frozen copy of the weights as they are now; with fresh adapters nothing is
        copied, their base serves.
        """
        if not self.base_is_reference and self._frozen is None:
            self._copy_reference()

    def drop_reference(self) -> None:
        """Forget the frozen copy: the next reference is of the weights as they are then."""
        self._frozen = None
        self.reference_updates = 0

    def _copy_reference(self) -> None:
        """What lies frozen beneath adapters is shared with the copy."""
        shared: dict[int, Any] = {
            id(p): p for p in self.hf.parameters() if is_peft(self.hf) and not p.requires_grad
        }
        frozen = copy.deepcopy(self.hf, shared).eval().requires_grad_(False)
        self._frozen = Program(frozen).eval()

    def update_reference(self, mix: float = 1.0) -> None:
        """Move the reference towards the weights as they are now: ref = mix pi + (1 - mix) ref,
        parameter by parameter.

        With adapters the base stays shared: what is copied is the adapters, and they can only be
        taken over whole (mix 1).
        """
        if self._frozen is None:
            if not is_peft(self.hf) or mix != 1:
                raise ModelError(
                    "only a frozen copy can be mixed: call enable_reference() on a model without "
                    "adapters first"
                )
            self._copy_reference()
        with torch.no_grad():
            for name, reference in self._reference_parameters().items():
                current = self.hf.get_parameter(name)
                reference.copy_(current) if mix == 1 else reference.lerp_(current, mix)
        self.reference_updates += 1

    def _reference_parameters(self) -> dict[str, torch.nn.Parameter]:
        """What of the frozen copy may differ from the model: the counterparts of trained
        parameters.
        """
        assert self._frozen is not None
        return {
            n: self._frozen.hf.get_parameter(n)
            for n, p in self.hf.named_parameters()
            if p.requires_grad
        }

    def save_for_resume(self, folder: str | Path) -> None:
        """What `save` writes, and the reference, where it is no longer the model of the start."""
        super().save_for_resume(folder)
        if self.reference_updates:
            tensors = {
                name: p.detach().contiguous() for name, p in self._reference_parameters().items()
            }
            save_file(tensors, Path(folder) / REFERENCE)

    def load_reference(self, folder: Path) -> None:
        """Take the reference that `save_for_resume` wrote, where it wrote one."""
        if not (folder / REFERENCE).is_file():
            return
        self.update_reference()  # so that there is a copy, with adapters too
        saved = load_file(folder / REFERENCE)
        with torch.no_grad():
            for name, reference in self._reference_parameters().items():
                reference.copy_(saved[name])

    def check_head(self) -> None:
        """Compare the model's own logits with `head` over `hidden`, on a few tokens.

        Raises:
            ModelError: they differ, so the architecture does something between the two that is not
            known here.
        """
        ids = torch.arange(min(5, self.config.vocab_size), device=self.device)[None]
        with evaluating(self.hf), torch.no_grad(), torch.random.fork_rng(cuda_devices(self.device)):
            with kernels.computing(accelerated=False):
                theirs = self.pretrained(input_ids=ids, use_cache=False).logits[0]
            hidden = self._row_hidden(ids)[0]
            ours = self.head.logits(hidden)
        if not relative_error(ours, theirs) <= bound_of(hidden.dtype):
            raise ModelError(
                f"{type(self.pretrained).__name__} computes its logits in a way that is not known "
                "here "
                "(a vocabulary projection with bias, scale and soft-cap gives others); it is not "
                "supported"
            )
