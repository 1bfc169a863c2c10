"""No loss without proof: every registered loss stands in the CASES of a file of tests here."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

from posttrain import registry


def test_every_loss_has_a_case() -> None:
    proved: set[str] = set()
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path == Path(__file__):
            continue
        spec = importlib.util.spec_from_file_location(f"coverage_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        proved |= {case[0] for case in getattr(module, "CASES", ())}
    assert proved == set(registry.losses.names())


def test_every_loss_declares_the_types_of_its_inputs() -> None:
    for name, entry in registry.losses.entries().items():
        parameters = inspect.signature(registry.losses.get(name)).parameters
        for key in entry.inputs:
            expected = "int" if key == "num_sequences" else "Tensor"
            assert parameters[key].annotation == expected, (name, key)
