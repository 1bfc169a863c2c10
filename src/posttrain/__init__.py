"""posttrain takes a language model from base to reasoner.

    import posttrain as pt

    model = pt.load("embedded")
    result = pt.fit(model, pt.sft(rows), steps=50)
    print(pt.evaluate(model, task, search=pt.majority_vote(num_samples=8)))

Every name is imported when it is first used, so that `import posttrain` loads no PyTorch.
"""

from __future__ import annotations

from typing import Any

from posttrain import face

__version__ = "0.1.0"
__all__ = ["__version__", *face.names()]


def __getattr__(name: str) -> Any:
    """A public name, imported on first use."""
    value = face.public(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
