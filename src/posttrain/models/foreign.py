"""A teacher with another tokenizer: it reads the text of the student's sequences in its own
tokens.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.data.templates import text_ids
from posttrain.errors import DataError
from posttrain.models.language_model import LanguageModel
from posttrain.models.logprobs import Head


class ForeignTeacher:
    """The distributions of a frozen language model beside those of a student with another
    tokenizer.

    The targets of each sequence must be its last tokens, as of a prompt with a completion or of
    plain text. Prompt and completion are tokenised apart, and special tokens are left out but for
    the end of sequence.

    Args:
        model: the teacher. tokenizer: the student's.
    """

    def __init__(self, model: LanguageModel, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def rows(self, forest: Forest) -> tuple[torch.Tensor, Head, torch.Tensor]:
        """For a student's forest with M targets: teacher's hidden states [M, D], its head, and
        aligned [M], 1 or 0.

        The row of a sequence's t-th target is the state in which the teacher chooses its own t-th
        token of the same text.

        Raises:
            DataError: targets that are not a sequence's last tokens, or a text that the teacher has
            no token for.
        """
        device = forest.tokens.device
        sequences = [self.retold(ids, start, row) for ids, start, row in _texts(forest)]
        trees = [
            Tree.build([sequences[i] for i in members])
            for _, members in itertools.groupby(
                range(len(sequences)), key=forest.tree.tolist().__getitem__
            )
        ]
        theirs = Forest.pack(trees).to(self.model.device)
        hidden, head = self.model.predictions(theirs)
        counts = torch.bincount(theirs.sequence, minlength=len(sequences)).to(device)
        ours = torch.bincount(forest.sequence, minlength=len(sequences))
        place = (
            torch.arange(forest.num_targets, device=device)
            - (ours.cumsum(0) - ours)[forest.sequence]
        )
        there = counts[forest.sequence]
        index = (counts.cumsum(0) - counts)[forest.sequence] + torch.minimum(place, there - 1)
        return hidden[index.to(hidden.device)], head, (place < there).to(torch.float32)

    def retold(self, ids: list[int], start: int, row: str) -> TokenSequence:
        """The teacher's tokens of a student's sequence whose targets begin at `start`."""
        student_tokenizer, teacher_tokenizer = self.tokenizer, self.model.tokenizer
        before, after = (
            student_tokenizer.decode(part, skip_special_tokens=True)
            for part in (ids[:start], ids[start:])
        )
        prompt = text_ids(teacher_tokenizer, before, start=True)
        completion = text_ids(teacher_tokenizer, after, start=not prompt)
        if ids[-1] == student_tokenizer.eos_token_id and teacher_tokenizer.eos_token_id is not None:
            completion.append(teacher_tokenizer.eos_token_id)
        first = max(len(prompt), 1)
        if len(prompt) + len(completion) <= first:
            raise DataError(f"row {row}: the teacher's tokenizer makes no token of {after!r}")
        teacher_ids = np.array([*prompt, *completion])
        return TokenSequence(teacher_ids, np.arange(len(teacher_ids)) >= first, row=row)


def _texts(forest: Forest) -> list[tuple[list[int], int, str]]:
    """Ids of each sequence, where its targets begin, and its name."""
    ends, tokens, positions = forest.ends.cpu(), forest.tokens.cpu(), forest.positions.cpu()
    counts = torch.bincount(forest.sequence, minlength=forest.num_sequences).tolist()
    firsts = positions[forest.place.cpu()].split(counts)
    texts = []
    for last, places, row in zip(forest.last.tolist(), firsts, forest.rows, strict=True):
        ids = tokens[: last + 1][ends[: last + 1] > last].tolist()
        if len(places) and (
            int(places[0]) != len(ids) - len(places) or int(places[-1]) != len(ids) - 1
        ):
            raise DataError(
                f"row {row}: a teacher with another tokenizer needs sequences that are trained up "
                "to their end in one piece, "
                "such as a prompt with a completion; of a conversation train the last turn alone "
                "(data.train_on: last)"
            )
        texts.append((ids, len(ids) - max(len(places), 1), row))
    return texts
