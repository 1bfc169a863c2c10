from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.data.forest import TokenSequence
from posttrain.data.steps import PieceTexts, scored_places, step_ends, step_texts


def test_steps_of_a_text() -> None:
    assert step_texts("a\n\nb\n", "\n") == ["a", "\nb"]
    assert step_ends(["a", "\n", "b", ""], "\n") == [1, 3]


def test_pieces_of_a_sequence_and_where_it_is_scored(tiny_tokenizer: Any) -> None:
    pieces = PieceTexts(tiny_tokenizer)
    ids = tiny_tokenizer("Qa\nb", add_special_tokens=False)["input_ids"]
    assert "".join(pieces(ids)) == "Qa\nb"
    sequence = TokenSequence(np.array(ids), np.arange(len(ids)) > 0)
    assert scored_places(sequence, "\n", pieces).tolist() == [2, 3]
    assert scored_places(sequence, None, pieces).tolist() == [3]
