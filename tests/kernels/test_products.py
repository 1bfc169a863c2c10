"""Products by one library and by the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import write
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.engines.stepping import matching_decoder
from posttrain.engines.torch import TorchEngine
from posttrain.kernels import computing, products, setup
from posttrain.kernels.products import fast_products, kernel_products, linear, wide
from posttrain.models.language_model import LanguageModel
from posttrain.training import session
from posttrain.training.loop import train
from posttrain.types import Request, Sampling

Build = Callable[[str], LanguageModel]

ZEN_5 = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n"


def asked() -> None:
    """What the command line asks for, as far as products go."""
    setup(keep_freed_memory=False, pause_collection=False)


def allowed() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


class Products(TorchDispatchMode):
    """For every operation within: its name, and what precision of products was allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add((func.name().partition("::")[2].partition(".")[0], allowed()))
        return func(*args, **(kwargs or {}))

    def precisions(self, *names: str) -> set[str]:
        return {precision for name, precision in self.seen if name in names}


@pytest.fixture
def zen_5(monkeypatch: pytest.MonkeyPatch) -> None:
    if not products._keeps_float32():
        pytest.skip("this processor would round products to bfloat16")
    monkeypatch.setattr(products, "_family", lambda: 26)
    asked()


@pytest.mark.parametrize(
    ("told", "capability", "exact", "family"),
    [
        (ZEN_5, "AVX512", True, 26),
        (ZEN_5.replace("26", "25"), "AVX512", True, 25),
        (ZEN_5.replace("26", "25"), "AVX2", True, 0),
        (ZEN_5, "AVX512", False, 0),
        (ZEN_5.replace("AuthenticAMD", "GenuineIntel"), "AVX512", True, 0),
        ("Features\t: fp asimd\n", "AVX512", True, 0),
        (None, "AVX512", True, 0),
    ],
)
def test_which_processors_are_meant(
    told: str | None,
    capability: str,
    exact: bool,
    family: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(products, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(products, "_keeps_float32", lambda: exact)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert products._family.__wrapped__() == family  # without what was found on this machine
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert products._family.__wrapped__() == 0


def test_products_rounded_to_bfloat16_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rounded(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func.name() == "aten::mm" and args[0].dtype == torch.float32:
                args = [x.bfloat16().float() for x in args]
            return func(*args, **(kwargs or {}))

    with Rounded():
        assert not products._keeps_float32()


@pytest.mark.usefixtures("zen_5")
def test_what_was_allowed_before_is_allowed_again() -> None:
    before = allowed()
    with pytest.raises(ZeroDivisionError), fast_products():
        assert allowed() == "bf16"
        with kernel_products():
            assert allowed() == "none"
            with fast_products(of_head=True):
                assert allowed() == "bf16"
        assert allowed() == "bf16"
        _ = 1 / 0
    assert allowed() == before


@pytest.mark.parametrize(
    ("family", "everywhere", "head"), [(0, False, False), (25, False, True), (26, True, True)]
)
def test_families_and_what_they_are_known_for(
    family: int, everywhere: bool, head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_family", lambda: family)
    with fast_products(), fast_products(of_head=True), computing():
        assert allowed() == "none"  # a library leaves the switch alone until it is asked
    asked()
    with fast_products():
        assert (allowed() == "bf16") == everywhere
    with fast_products(of_head=True):
        assert (allowed() == "bf16") == head


@pytest.mark.parametrize("by_columns", [True, False])
def test_linear_is_the_product_with_the_transposed_weight(by_columns: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(7, 48, generator=generator), torch.randn(33, 48, generator=generator)
    exact = x.double() @ weight.double().t()
    with torch.no_grad():
        for given in (x, x.t().contiguous().t(), x[::2]):
            found = linear(given, weight, by_columns=by_columns)
            expected = exact[::2] if len(given) == 4 else exact
            assert found.shape == expected.shape and found.dtype == torch.float32
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        assert linear(x[:0], weight.requires_grad_(), by_columns=by_columns).shape == (0, 33)


def test_where_a_gradient_is_recorded_it_is_differentiable() -> None:
    x, weight = torch.ones(2, 3, requires_grad=True), torch.arange(12.0).view(4, 3).requires_grad_()
    linear(x, weight).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[18.0, 22.0, 26.0]] * 2
    assert weight.grad is not None and weight.grad.tolist() == [[2.0] * 3] * 4


KERNEL = "_scaled_dot_product_flash_attention_for_cpu"


@pytest.mark.usefixtures("zen_5")
@pytest.mark.parametrize(
    ("settings", "of_layers"),
    [({}, {"bf16"}), ({"lora": {"r": 2}}, {"bf16"}), ({"attention": "unshared"}, {"bf16", "none"})],
    ids=["layers as one function", "adapters", "attention by transformers"],
)
def test_products_of_a_run_are_fast_and_those_within_attention_kernels_are_not(
    settings: dict[str, Any],
    of_layers: set[str],
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where transformers attends, the layers' products are not fast, as its kernel's backward
    pass could not be told apart.
    """
    data = write(
        tmp_path / "rows.jsonl",
        [
            {"prompt": "one two", "completion": "three four five six"},
            {"prompt": "seven", "completion": "eight"},
        ],
    )
    seen = Products()

    def watched(*given: Any, **named: Any) -> Any:
        with seen:
            return train(*given, **named)

    monkeypatch.setattr(session, "train", watched)
    model = {"path": str(tiny_folder), "dtype": "float32", **settings}
    run_recipe(method="sft", data=data, max_steps=1, batch_size=2, model=model)
    assert seen.precisions("mm", "addmm", "addmm_") == of_layers
    assert seen.precisions(KERNEL) == seen.precisions(f"{KERNEL}_backward") == {"none"}


@pytest.mark.usefixtures("zen_5")
def test_products_of_decoding_are_fast(llama_like: Build) -> None:
    engine = TorchEngine(llama_like("qwen3"))
    assert matching_decoder(engine.model) is not None
    with Products() as seen:
        engine.generate([Request((3, 4, 5), Sampling(max_tokens=3), n=2, seed=0)])
    assert seen.precisions("mm", "addmm", "addmm_") == {"bf16"}
    assert seen.precisions("bmm", "matmul") == {
        "none",
        "bf16",
    }  # scores of a row's own keys; all else
    assert seen.precisions(KERNEL) == {"none"}


def test_wide_leaves_what_is_wide() -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=dtype)
        assert wide(x) is x
    assert (
        wide(torch.ones(2, dtype=torch.bfloat16)).dtype
        == wide(torch.ones(2, dtype=torch.float16)).dtype
        == torch.float32
    )
