"""A teacher with another tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import DataError
from posttrain.models.foreign import ForeignTeacher
from posttrain.models.load import load_model


def test_a_foreign_teacher_reads_the_same_text(other_tokenizer: Path, tiny_folder: Path) -> None:
    """Row by row: the state in which the teacher, alone and in its own tokens, chooses its t-th
    token.
    """
    student, teacher = (
        load_model(tiny_folder, dtype="float32"),
        load_model(other_tokenizer, dtype="float32"),
    )
    own = student.tokenizer

    def sequence(prompt: str, completion: str, end: bool) -> TokenSequence:
        before = own(prompt)["input_ids"]
        ids = [
            *before,
            *own(completion, add_special_tokens=False)["input_ids"],
            *([own.eos_token_id] if end else []),
        ]
        return TokenSequence(np.array(ids), np.arange(len(ids)) >= len(before), row=completion)

    texts = [("Q: 2+3", "A: 5 12 7", True), ("Q: 2+3", "A: 6", True), ("7", "8+1", False)]
    sequences = [sequence(*t) for t in texts]
    forest = Forest.pack([Tree.build(sequences[:2], min_shared=1), Tree.build(sequences[2:])])
    hidden, head, aligned = ForeignTeacher(teacher, own).rows(forest)
    start = 0
    for (prompt, completion, end), s in zip(texts, sequences, strict=True):
        before = [0, *teacher.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        before = before[1:] if teacher.tokenizer("a")["input_ids"][0] != 0 else before
        ids = [
            *before,
            *teacher.tokenizer(completion, add_special_tokens=False)["input_ids"],
            *([1] if end else []),
        ]
        with torch.no_grad():
            expected = teacher.hf(torch.tensor([ids])).logits[0, len(before) - 1 : -1]
        count, theirs = int(s.loss_mask.sum()), len(ids) - len(before)
        assert theirs <= count  # bytes are finer than words
        torch.testing.assert_close(
            head.logits(hidden[start : start + theirs]), expected, atol=1e-5, rtol=1e-4
        )
        assert aligned[start : start + count].tolist() == [1.0] * theirs + [0.0] * (count - theirs)
        start += count
    middle = TokenSequence(sequences[0].ids, np.arange(len(sequences[0].ids)) == 4, row="chat")
    with pytest.raises(DataError, match="row chat: "):
        ForeignTeacher(teacher, own).rows(Forest.pack([Tree.build([middle])]))


def test_a_sequence_is_told_in_the_teachers_tokens(
    other_tokenizer: Path, tiny_tokenizer: Any
) -> None:
    teacher = ForeignTeacher(load_model(other_tokenizer, dtype="float32"), tiny_tokenizer)
    before = tiny_tokenizer("Q:")["input_ids"]
    ids = [*before, *tiny_tokenizer(" 7 + 1", add_special_tokens=False)["input_ids"]]
    end = tiny_tokenizer.eos_token_id
    words = teacher.model.tokenizer.get_vocab()
    for tail in ([], [end]):
        told = teacher.retold([*ids, *tail], len(before), "r")
        expected = [words[word] for word in ("7", "+", "1")] + ([words["</s>"]] if tail else [])
        assert told.ids[told.loss_mask].tolist() == expected and told.row == "r"
    with pytest.raises(DataError, match="row r: "):
        teacher.retold(
            [*before, *tiny_tokenizer(" ", add_special_tokens=False)["input_ids"]], len(before), "r"
        )
