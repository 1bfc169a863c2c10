"""The public names: lazy, complete, and each with its documentation."""

from __future__ import annotations

import subprocess
import sys

import pytest

import posttrain as pt
from posttrain import face


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, posttrain; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("name", face.names())
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(pt, name)
    assert name in dir(pt) and (value.__doc__ or "").strip()


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sftt'"):
        _ = pt.sftt
    with pytest.raises(AttributeError, match="no reward 'lenght'.*length"):
        _ = pt.reward.lenght


def test_registered_functions_are_plain_functions() -> None:
    assert pt.reward.length(["abc"], target=3) is not None
    assert "dpo" in dir(pt.loss) and "group_mean" in dir(pt.advantage)


def test_a_method_with_data_in_registry_is_public() -> None:
    from posttrain.registry import methods

    missing = set(methods.names()) - set(face.names()) - {"pipeline", "continual_learning"}
    assert not missing
