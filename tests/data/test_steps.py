from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.data.forest import TokenSequence
from posttrain.data.scored import encode_scores
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


def test_steps_end_where_their_separator_is_complete() -> None:
    assert step_ends([" a", "b", "\n", "c", "\n", "d", ""], "\n") == [2, 4, 6]
    assert step_ends(["ab\ncd", "e\n\n", "f"], "\n") == [
        0,
        1,
        2,
    ]  # a token may hold several; a blank step is none
    assert step_ends(["a\n", "\n", ""], "\n") == [0] and step_ends(["a", "\n\nb"], "\n\n") == [1, 1]
    assert step_ends(["x", ""], "\n") == [1] and step_ends([""], "\n") == []


def test_steps_keep_blank_lines_between_them(tiny_tokenizer: Any) -> None:
    text = "one\n\n  two\n\n\nthree"
    steps = step_texts(text, "\n")
    assert steps == ["one", "\n  two", "\n\nthree"] and "\n".join(steps) == text
    encoded = encode_scores(
        [{"prompt": "Q", "completions": steps, "labels": [True, True, False]}], tiny_tokenizer
    )
    (sequence,) = encoded.sequences
    assert text in tiny_tokenizer.decode(sequence.ids) and sequence.streams["labels"][
        sequence.loss_mask
    ].tolist() == [1, 1, 0]


def test_piece_texts_make_up_the_text(tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer(" 3+4=7\n#### 7", add_special_tokens=False)["input_ids"]
    texts = PieceTexts(tiny_tokenizer)
    assert "".join(texts(ids)) == " 3+4=7\n#### 7" and texts([tiny_tokenizer.eos_token_id]) == [""]
