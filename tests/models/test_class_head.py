"""A head's classes in a configuration and back."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from posttrain.errors import ConfigError
from posttrain.models.class_head import Classes


def test_there_and_back() -> None:
    config = LlamaConfig()
    Classes(("a", "b", "c"), "mean", 0.3).write(config)
    assert config.num_labels == 3
    assert Classes.read(LlamaConfig.from_dict(config.to_dict())) == Classes(
        ("a", "b", "c"), "mean", 0.3
    )


def test_a_head_that_was_trained_elsewhere_reads_the_last_token() -> None:
    assert Classes.read(LlamaConfig(num_labels=2)) == Classes(("LABEL_0", "LABEL_1"), "last", 0.0)


@pytest.mark.parametrize(("labels", "rate"), [(("a",), 0.1), (("a", "a"), 0.1), (("a", "b"), 1.0)])
def test_what_is_refused(labels: tuple[str, ...], rate: float) -> None:
    with pytest.raises(ConfigError):
        Classes(labels, "mean", rate)
