"""What is trained instead of all weights: adapters through the optional library PEFT, or some
of the model's own weights.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.errors import MissingDependency, ModelError, nearest

STATE_FILE = "adapter_state.safetensors"
"""Beside an adapter's own files: what training needs to go on, where the library does not keep
it.
"""

_VIRTUAL = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
_TABLES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what AdaLoRA has learnt of its ranks' importance
_SCALED = (
    "k_proj",
    "v_proj",
    "down_proj",
)  # what IA3 scales: keys, values, and what the MLP's last layer takes


def adapter_of(path: str) -> dict[str, Any] | None:
    """The adapter config of a PEFT folder, None for anything else.

    Raises:
        ModelError: it cannot be read, or does not name the base model.
    """
    file = Path(path) / "adapter_config.json"
    if not file.is_file():
        return None
    adapter = read_json(file)
    if not adapter.get("base_model_name_or_path"):
        raise ModelError(f"{file} does not name the base model (base_model_name_or_path)")
    return adapter


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file of a model folder holds.

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}, not an object")
    return content


def refuse_virtual_score(adapter: AdapterConfig | Mapping[str, Any] | None) -> None:
    """Refuse virtual tokens on a model of scores. adapter: settings, or what a PEFT folder's config
    says.

    Raises:
        ModelError: a kind with virtual tokens.
    """
    if isinstance(adapter, AdapterConfig):
        kind = adapter.kind if adapter.virtual_tokens else None
    else:
        kind = (
            adapter["peft_type"]
            if adapter is not None and adapter.get("peft_type") in _VIRTUAL
            else None
        )
    if kind is not None:
        raise ModelError(
            f"adapter: kind {kind!r} puts tokens before a language model's; a score model takes "
            "lora or ia3"
        )


def add_lora(model: Any, settings: LoraConfig, *, seed: int = 0) -> Any:
    """The model with fresh low-rank adapters (LoRA, arXiv 2106.09685), its own weights frozen.

    Global random state stays as it was.

    Raises:
        MissingDependency: PEFT is not installed. ModelError: a target module does not exist or is
        the projection.
    """
    task = _task_type(model)
    _check_targets(model, settings.target_modules, "lora")
    config = _peft().LoraConfig(
        task_type=task,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        # "all-linear" would take in the head of a token classifier, which is trained in full.
        exclude_modules=None if task == "CAUSAL_LM" else ["score", "classifier"],
        use_rslora=settings.rslora,
        use_dora=settings.use_dora,
        init_lora_weights=True if settings.init == "default" else settings.init,
        modules_to_save=settings.modules_to_save,
    )
    return _wrapped(model, config, "lora", seed)


def add_adapter(model: Any, settings: AdapterConfig, *, tokenizer: str = "", seed: int = 0) -> Any:
    """The model with fresh adapters of another kind, its own weights frozen; for kinds that train
    some of these, see `freeze`.

    Args:
        tokenizer: where the tokenizer is, which reads init_text.
    Raises:
        MissingDependency: PEFT is not installed. ModelError: a target module does not exist, or the
        kind does not fit.
    """
    task = _task_type(model)
    if task != "CAUSAL_LM":
        refuse_virtual_score(settings)
    _check_targets(model, settings.target_modules, "adapter")
    make = {"adalora": _adalora, "vera": _vera, "ia3": _ia3}.get(settings.kind)
    config = (
        make(model, settings, task) if make is not None else _virtual(settings, task, tokenizer)
    )
    return _wrapped(model, config, "adapter", seed)


def _adalora(model: Any, settings: AdapterConfig, task: str) -> Any:
    r = settings.r or 8
    return _peft().AdaLoraConfig(
        task_type=task,
        init_r=r + (r + 1) // 2,
        target_r=r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_linear(settings),
        total_step=1 << 30,  # the schedule is set when the run's steps are known
    )


def _vera(model: Any, settings: AdapterConfig, task: str) -> Any:
    return _peft().VeraConfig(
        task_type=task,
        r=settings.r or 256,
        vera_dropout=settings.dropout,
        target_modules=_linear(settings),
    )


def _ia3(model: Any, settings: AdapterConfig, task: str) -> Any:
    if settings.target_modules != "auto":
        targets = list(settings.target_modules)
    else:
        targets = sorted(set(_SCALED) & _linear_names(model))
        if len(targets) < len(_SCALED):
            raise ModelError(
                f"adapter: {type(model).__name__} has no layers {', '.join(_SCALED)}; name those "
                "that yield keys and values "
                "and the MLP's last one as adapter.target_modules"
            )
    outputs = [t for t in targets if t in ("down_proj", "fc2", "c_proj", "w2", "dense_4h_to_h")]
    return _peft().IA3Config(task_type=task, target_modules=targets, feedforward_modules=outputs)


def _virtual(settings: AdapterConfig, task: str, tokenizer: str) -> Any:
    peft, count = _peft(), settings.num_virtual_tokens
    if settings.kind == "prefix":
        size = settings.encoder_hidden_size
        return peft.PrefixTuningConfig(
            task_type=task,
            num_virtual_tokens=count,
            prefix_projection=size > 0,
            encoder_hidden_size=size or None,
        )
    if settings.kind == "p_tuning":
        size = settings.encoder_hidden_size or 128
        return peft.PromptEncoderConfig(
            task_type=task, num_virtual_tokens=count, encoder_hidden_size=size
        )
    if settings.init_text is None:
        return peft.PromptTuningConfig(
            task_type=task, num_virtual_tokens=count, prompt_tuning_init="SAMPLE_VOCAB"
        )
    return peft.PromptTuningConfig(
        task_type=task,
        num_virtual_tokens=count,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=settings.init_text,
        tokenizer_name_or_path=tokenizer,
    )


def _linear(settings: AdapterConfig) -> Any:
    return "all-linear" if settings.target_modules == "auto" else list(settings.target_modules)


def _wrapped(model: Any, config: Any, what: str, seed: int) -> Any:
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.filterwarnings("ignore", message=".*(PiSSA|OLoRA|initial|modifies|CorDA).*")
        try:
            return _peft().get_peft_model(model, config)
        except (ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"{what}: {error}") from error


def freeze(model: Any, settings: AdapterConfig) -> None:
    """Leave only some of the model's own weights trainable: all biases, or the last blocks and
    named parameters.

    Raises:
        ModelError: nothing would be trained, or a name that no parameter holds.
    """
    names = [name for name, _ in model.named_parameters()]
    if settings.kind == "bitfit":
        trained = {name for name in names if name.endswith(".bias")}
        if not trained:
            raise ModelError(
                f"adapter: {type(model).__name__} has no biases, so bitfit trains nothing; take "
                "ia3, or lora with a small r"
            )
    else:
        trained = set()
        for part in settings.modules:
            found = {name for name in names if part in name}
            if not found:
                known = {
                    piece for name in names for piece in name.split(".") if not piece.isdigit()
                }
                raise ModelError(
                    f"adapter.modules: no parameter's name holds {part!r}: {nearest(part, known)}"
                )
            trained |= found
        trained |= _of_last_layers(model, names, settings.last_layers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _of_last_layers(model: Any, names: list[str], count: int) -> set[str]:
    if not count:
        return set()
    blocks: Any = next(
        (m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) > 0), None
    )
    if blocks is None or count > len(blocks):
        raise ModelError(
            f"adapter.last_layers: {count} of {0 if blocks is None else len(blocks)} layers; take "
            "at most all"
        )
    wanted = {id(p) for block in blocks[len(blocks) - count :] for p in block.parameters()}
    return {name for name in names if id(model.get_parameter(name)) in wanted}


def rate_factors(model: Any, settings: LoraConfig | None) -> dict[torch.nn.Parameter, float]:
    """What learning rates are multiplied by: those of the matrices B, after LoRA+."""
    if settings is None or settings.lora_plus_ratio == 1:
        return {}
    named = model.named_parameters()
    return {
        p: settings.lora_plus_ratio
        for name, p in named
        if p.requires_grad and ("lora_B" in name or "embedding_B" in name)
    }


class RankUpdates:
    """What AdaLoRA does beside gradient descent (arXiv 2303.10512): keeps P and Q near orthogonal,
    and prunes ranks.

    The first tenth of the steps trains all ranks, then their number falls by a cubic law until
    seven tenths, and the last three tenths train what is left.

    Args:
        weight: of R(P, Q) = mean over the matrices of |P P^T - I|, whose gradient is added.
    """

    def __init__(self, hf: Any, steps: int, *, weight: float = 0.5) -> None:
        self.hf, self.weight = hf, weight
        config = hf.peft_config["default"]
        config.total_step, config.tinit, config.tfinal = steps, steps // 10, 3 * steps // 10
        config.deltaT = max(1, steps // 100)

    def before(self) -> None:
        """Add the penalty's gradient to those of the loss."""
        matrices = [
            (n, p)
            for n, p in self.hf.named_parameters()
            if p.grad is not None and ("lora_A" in n or "lora_B" in n)
        ]
        with torch.enable_grad():
            for name, matrix in matrices:
                wide = matrix if "lora_A" in name else matrix.T
                unit = torch.eye(len(wide), device=wide.device, dtype=wide.dtype)
                (gradient,) = torch.autograd.grad(
                    torch.linalg.matrix_norm(wide @ wide.T - unit), matrix
                )
                assert matrix.grad is not None
                matrix.grad += self.weight / len(matrices) * gradient

    def after(self, step: int) -> None:
        """Judge the ranks by weights and gradients after update number `step` (from 0), and
        prune.
        """
        self.hf.base_model.update_and_allocate(step + 1)


def updates_of(hf: Any, steps: int) -> RankUpdates | None:
    """What an adapter does beside gradient descent, None for most."""
    return RankUpdates(hf, steps) if _kind(hf) == "ADALORA" else None


def load_adapter(model: Any, folder: str, *, trainable: bool = True) -> Any:
    """The model with the adapters of a PEFT folder, as its training left them where the folder
    tells.
    """
    peft, state = _peft(), Path(folder) / STATE_FILE
    try:
        config = peft.PeftConfig.from_pretrained(folder)
        if not (trainable and state.is_file()):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*(PiSSA|OLoRA|initial|modifies).*")
                # The library does not train virtual tokens on that it has loaded.
                trainable = trainable and _name(config) not in _VIRTUAL
                return peft.PeftModel.from_pretrained(model, folder, is_trainable=trainable)
        config.inference_mode = False
        # Pruned ranks may come back, so that the matrices have to be whole; and what is loaded
        # needs no text to begin with.
        kept = {
            name: getattr(config, name)
            for name in ("rank_pattern", "prompt_tuning_init")
            if hasattr(config, name)
        }
        for name in kept:
            setattr(config, name, None if name == "rank_pattern" else "RANDOM")
        hf = _wrapped(model, config, "adapter", 0)
        _load_state(hf, load_file(state, device=str(next(model.parameters()).device)))
        for name, value in kept.items():
            setattr(hf.peft_config["default"], name, value)
        return hf
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise ModelError(f"the adapter {folder} does not fit its base model: {error}") from error


def save_state(hf: Any, folder: str | Path) -> None:
    """Write what the library's files leave out and training needs: pruned ranks and
    importances, networks of prompts.
    """
    _order_config(Path(folder) / "adapter_config.json")
    kind = _kind(hf)
    if kind != "ADALORA" and kind not in _VIRTUAL:
        return
    tensors = {f"parameter.{n}": p.detach() for n, p in hf.named_parameters() if p.requires_grad}
    if kind == "ADALORA":
        allocator = hf.base_model.rankallocator
        tensors |= {
            f"{table}.{n}": t for table in _TABLES for n, t in getattr(allocator, table).items()
        }
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, Path(folder) / STATE_FILE)


def _order_config(file: Path) -> None:
    """Write an adapter's config anew with keys and names of layers in order: the library writes
    sets as they come.
    """
    if file.is_file():
        config = read_json(file)
        sets = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save")
        config |= {k: sorted(config[k]) for k in sets if isinstance(config.get(k), list)}
        file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _load_state(hf: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if head == "parameter":
                hf.get_parameter(rest).copy_(tensor)
            else:
                getattr(hf.base_model.rankallocator, head)[rest] = tensor.clone()


class VirtualTokens:
    """Trained tokens before every sequence: embeddings (prompt and P-tuning), or keys and
    values of each layer (prefix).
    """

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        self.count: int = hf.peft_config["default"].num_virtual_tokens
        self.in_layers = _kind(hf) == "PREFIX_TUNING"

    def embeddings(self) -> torch.Tensor:
        """[count, D]; of a prefix those do not matter, and are 0."""
        if self.in_layers:
            table = self._hf.get_base_model().get_input_embeddings().weight
            return table.new_zeros(self.count, table.shape[1])
        found: torch.Tensor = self._hf.get_prompt(1)[0]
        return found

    def keys_and_values(self) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Per layer, [1, Hkv, count, D] each; None where they follow from embeddings."""
        if not self.in_layers:
            return None
        return [(layer.keys, layer.values) for layer in self._hf.get_prompt(1).layers]


def virtual_tokens(hf: Any) -> VirtualTokens | None:
    """The virtual tokens of an adapted model, None where it has none."""
    return VirtualTokens(hf) if _kind(hf) in _VIRTUAL else None


def keeps_base(hf: Any) -> bool:
    """Whether the model with its adapters switched off is the model that the run started from."""
    return bool(_kind(hf)) and getattr(
        hf.peft_config["default"], "init_lora_weights", None
    ) not in ("pissa", "olora")


def _kind(hf: Any) -> str:
    """PEFT's name of the kind of adapters, "" for a model without."""
    return _name(hf.peft_config["default"]) if hasattr(hf, "get_base_model") else ""


def _name(config: Any) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))


def _task_type(model: Any) -> str:
    """PEFT's name of what the model is for; a fresh score head is then trained in full and
    saved with the adapters.
    """
    name = type(model).__name__
    return (
        "SEQ_CLS"
        if name.endswith("ForSequenceClassification")
        else "TOKEN_CLS"
        if "TokenClass" in name
        else "CAUSAL_LM"
    )


def _check_targets(model: Any, targets: str | list[str], what: str) -> None:
    if isinstance(targets, str):
        return
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    head = model.get_output_embeddings()
    for target in targets:
        last = target.rpartition(".")[2]
        if last not in names:
            raise ModelError(
                f"{what}.target_modules: no layer is called {target!r}: "
                f"{nearest(last, _linear_names(model))}"
            )
        if any(
            module is head
            for name, module in model.named_modules()
            if name.rpartition(".")[2] == last
        ):
            raise ModelError(
                f"{what}.target_modules: {target!r} is the vocabulary projection, which cannot "
                "carry an adapter here; "
                f"leave it out or train it in full with lora.modules_to_save"
            )


def _linear_names(model: Any) -> set[str]:
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if hasattr(module, "weight") and name
    }


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingDependency("peft", "peft") from error
    return peft
