"""Fixtures that many tests share."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# A shell starts background jobs with these ignored, and a run leaves ignored signals ignored: tests
# that interrupt runs need them as they are in a terminal.
for _name, _handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models beside the checkout; tests that read it skip where it
    is absent.
    """
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no folder of real data beside the checkout ({folder})")
    return folder


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """A real pre-trained Llama-architecture model of 260 thousand parameters."""
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no model folder {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights: the embedded model's tokenizer, two small layers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    spec = importlib.util.spec_from_file_location(
        "base_tokenizer", ROOT / "recipes" / "base_tokenizer.py"
    )
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("tiny")
    module.write(folder)
    config = AutoConfig.from_pretrained(folder)
    config.update(
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "head_dim": 16,
            "layer_types": None,
        }
    )
    config.update(
        {"num_attention_heads": 2, "num_key_value_heads": 1, "layer_types": ["full_attention"] * 2}
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_folder: Path) -> Any:
    """The tokenizer of `tiny_folder`: bytes, BOS, a chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture
def other_tokenizer(tmp_path: Path) -> Path:
    """A tiny model with words for tokens."""
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {
        w: i
        for i, w in enumerate(["<s>", "</s>", "<unk>", "Q", "A", ":", "+", *map(str, range(30))])
    }
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>"
    )
    folder = tmp_path / "other"
    tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def run_recipe(tmp_path: Path, tiny_folder: Path) -> Callable[..., Path]:
    """Run a recipe given as keywords on the tiny model, and return its folder."""

    def run(resume: bool = False, accept: Any = (), **raw: Any) -> Path:
        from rich.console import Console

        from posttrain.recipe import parse_recipe
        from posttrain.runs import run_of

        raw = {
            "model": {"path": str(tiny_folder), "dtype": "float32"},
            "output": str(tmp_path / "run"),
            **raw,
        }
        console = Console(file=(tmp_path / "console.txt").open("a"), width=100)
        return run_of(
            parse_recipe(raw, tmp_path), resume=resume, accept=accept, console=console
        ).execute()

    return run


SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA_LIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),  # has biases of queries, keys and values
    "qwen3": ("Qwen3", {"head_dim": 16}),  # norms queries and keys
    # Not quite of that kind:
    "windows": ("Mistral", {"sliding_window": 8}),
    "gemma2": ("Gemma2", {"head_dim": 16}),
    # The parts of a Llama, computed otherwise: residual and embedding multipliers; a factor of far
    # positions.
    "granite": ("Granite", {"residual_multiplier": 0.3, "embedding_multiplier": 2.0}),
    "ministral3": ("Ministral3", {"sliding_window": None}),
    "output bias": ("Llama", {"attention_bias": True}),
    "mlp bias": ("Llama", {"mlp_bias": True}),
    "gelu": ("Llama", {"hidden_act": "gelu"}),
}


@pytest.fixture
def llama_like() -> Callable[[str], Any]:
    """A language model that shares trunks, with random weights, of a family in LLAMA_LIKE."""

    def build(family: str) -> Any:
        import torch
        import transformers

        from posttrain.models.language_model import LanguageModel

        torch.manual_seed(0)
        name, settings = LLAMA_LIKE[family]
        config = getattr(transformers, f"{name}Config")(**SIZES, **settings)
        hf = getattr(transformers, f"{name}ForCausalLM")(config).eval()
        with torch.no_grad():
            # norms and biases start as ones and zeros: with those a missing factor would not show
            for p in hf.parameters():
                p.add_(torch.randn_like(p) * 0.2)
        model = LanguageModel(hf, None)  # type: ignore[arg-type]
        model.share_trunks()
        assert model.shares_trunks
        return model

    return build


@pytest.fixture(scope="session")
def decoder() -> Callable[[str], Any]:
    """A small random language model of a kind, without ids that end a text."""
    from decoders import build

    return build


@pytest.fixture(autouse=True)
def library_switches() -> Iterator[None]:
    """The process-wide switches of a test end with it: those of a library, which are all off."""
    yield
    kernels = sys.modules.get("posttrain.kernels")
    if kernels is not None:
        kernels.reset()
