"""Types of settings from source text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from posttrain.annotations import PACKAGE_FOLDER, Opaque, parse, scope_of, spelled
from posttrain.config import DataConfig, SamplingConfig
from posttrain.errors import ConfigError

TEXT = """
import typing as t
import numpy as np
import posttrain.losses.policy
from typing import Literal, Optional
from pathlib import Path
from posttrain.config import DataConfig
from posttrain.config import SamplingConfig as Sampling
from posttrain.losses.divergence import Divergence
from posttrain.training.optim import AdamW, Schedule

Mode = Literal["a", "b"]
Modes: t.TypeAlias = "list[Mode]"
Loop = list[Loop]
"""


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("int | None", int | None),
        ("Mode", Literal["a", "b"]),
        ("Modes | None", list[Literal["a", "b"]] | None),
        ("t.Literal['x']", Literal["x"]),
        ("dict[str, Path]", dict[str, Path]),
        ("DataConfig | None", DataConfig | None),
        ("Sampling", SamplingConfig),
        ("Divergence", Literal["reverse_kl", "forward_kl", "js", "alpha"]),
        ("Schedule", Literal["linear", "cosine", "constant", "constant_with_warmup"]),
    ],
)
def test_resolved(tmp_path: Path, text: str, hint: object) -> None:
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    assert scope_of(path).evaluate(text) == hint


@pytest.mark.parametrize("text", ["np.ndarray", "AdamW", "Unknown", "Unknown[int]", "1 +", "Loop"])
def test_what_cannot_be_resolved_is_opaque(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    hint = scope_of(path).evaluate(text)
    assert "Opaque" in repr(type(hint)) or issubclass(hint.__args__[0], Opaque)


def test_an_unknown_part_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(TEXT)
    hint = scope_of(path).evaluate("Unknown | None")
    assert type(None) in hint.__args__ and issubclass(hint.__args__[0], Opaque)


def test_a_file_with_an_error_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("\ndef f(:\n")
    with pytest.raises(ConfigError, match="mine.py:2"):
        parse(path)


def test_types_of_losses_are_resolved_without_torch() -> None:
    code = (
        "import sys; from posttrain.annotations import PACKAGE_FOLDER, scope_of\n"
        "hint = scope_of(PACKAGE_FOLDER / 'losses' / 'preference.py').evaluate('Divergence')\n"
        "assert 'js' in hint.__args__ and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert scope_of(PACKAGE_FOLDER / "losses" / "preference.py").origin("losses.register") == (
        "posttrain.registry.losses.register"
    )


def test_spelled() -> None:
    for hint, text in (
        (int | None, "int | None"),
        (list[Literal["a", 1]], "list[Literal['a', 1]]"),
        (tuple[float, ...], "tuple[float, ...]"),
        (DataConfig | None, "DataConfig | None"),
        (None, "None"),
    ):
        assert spelled(hint) == text
