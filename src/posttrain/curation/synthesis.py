"""Rows that a model writes: new instructions, harder ones, instructions of texts, rationales."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.config import DataLike
from posttrain.curation.author import Author, AuthorLike, Cost
from posttrain.data.rouge import RougeAgainst, words_of
from posttrain.data.row_texts import RowTexts
from posttrain.data.rows import Row, stream_of
from posttrain.errors import ConfigError, DataError
from posttrain.types import Sampling

_SAMPLING = Sampling(temperature=0.7, top_p=0.95, max_tokens=512)

_MIN_WORDS, _MAX_WORDS = 3, 150
_NOT_TEXT = re.compile(
    r"\b(images?|graphs?|pictures?|files?|maps?|draw|plot|go to|video|audio|music|flowchart|"
    r"diagram)\b",
    re.IGNORECASE,
)

_EVOLUTIONS = {
    "constraints": "Add one more constraint or requirement to it.",
    "deepening": "If it asks about an issue, ask about it in more depth and breadth.",
    "concretizing": "Replace general concepts in it with more specific ones.",
    "reasoning": "If it can be solved by simple thinking, rewrite it so that it needs several "
    "steps of reasoning.",
    "breadth": "Write a new instruction of the same domain that is rarer, of similar length and "
    "difficulty.",
}
EVOLUTIONS = tuple(_EVOLUTIONS)
"""Kinds of rewriting of `evolve`; all but the last make an instruction harder."""


@dataclass(slots=True)
class Synthesized:
    """Rows that were written.

    rows: prompt, completion, and what the function says. cost: of all requests. rejected: how many
    were left out, by reason.
    """

    rows: list[Row]
    cost: Cost
    rejected: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lost = ", ".join(f"{n} {reason}" for reason, n in self.rejected.items())
        return f"{len(self.rows)} rows; {self.cost}" + (f"; rejected: {lost}" if lost else "")


def self_instruct(
    model: AuthorLike,
    seeds: DataLike,
    *,
    num_rows: int = 100,
    num_demonstrations: int = 8,
    max_similarity: float = 0.7,
    max_requests: int | None = None,
    answered: bool = True,
    sampling: Sampling = _SAMPLING,
    seed: int = 0,
    journal: str | Path | None = None,
) -> Synthesized:
    """New instructions after the pattern of seed tasks, and their answers (Self-Instruct, Wang et
    al., arXiv 2212.10560).

    A request shows num_demonstrations instructions, of which a quarter were written by the model
    itself once there are any, and asks for more. A new one is left out if its ROUGE-L with any
    instruction so far is above max_similarity, if it has fewer than 3 or more than 150 words, or
    if it asks for what text cannot hold, such as an image.

    Args:
        model: who writes: a model, a `pt.Endpoint`, or a function from prompts to texts.
        seeds: rows, of which the prompts are shown.
        num_rows: new instructions.
        num_demonstrations: instructions that a request shows.
        max_similarity: highest ROUGE-L with another instruction.
        max_requests: requests for instructions at most; None is four times num_rows.
        answered: ask for the answer to each instruction too.
        sampling: of what is written.
        seed: of the choice of demonstrations and of the sampling.
        journal: a file of the answers, so that an interrupted call pays for none twice.

    Raises:
        ConfigError: a number out of range. DataError: no seed has a prompt.
    """
    if num_rows < 1 or num_demonstrations < 1 or not 0 < max_similarity <= 1:
        raise ConfigError(
            f"self_instruct: num_rows {num_rows} and num_demonstrations {num_demonstrations} must "
            f"be at least 1, max_similarity {max_similarity} above 0 and at most 1"
        )
    author = Author(model, sampling=sampling, seed=seed, journal=journal)
    human = prompts_of(seeds)
    pool = [words_of(text) for text in human]
    written: list[str] = []
    rejected: dict[str, int] = {}
    draw = random.Random(seed)
    for _ in range(max_requests if max_requests is not None else 4 * num_rows):
        if len(written) >= num_rows:
            break
        own = min(len(written), num_demonstrations // 4)
        shown = [*draw.sample(written, own)]
        shown += draw.sample(human, min(num_demonstrations - own, len(human)))
        draw.shuffle(shown)
        (text,) = author.write([_series(shown)])
        for candidate in _listed(text, len(shown) + 1):
            reason = _unfit(candidate) or _repeats(candidate, pool, max_similarity)
            if reason is not None:
                rejected[reason] = rejected.get(reason, 0) + 1
            elif len(written) < num_rows:
                written.append(candidate)
                pool.append(words_of(candidate))
    rows: list[Row] = [{"prompt": text} for text in written]
    if answered:
        for row, answer in zip(rows, author.write(written), strict=True):
            row["completion"] = answer
        rows = _nonempty(rows, rejected)
    return Synthesized(rows, author.cost, rejected)


def evolve(
    model: AuthorLike,
    data: DataLike,
    *,
    num_rounds: int = 1,
    kinds: Sequence[str] = EVOLUTIONS,
    sampling: Sampling = _SAMPLING,
    seed: int = 0,
    journal: str | Path | None = None,
) -> Synthesized:
    """Harder or rarer versions of instructions, with their answers (Evol-Instruct, Xu et al., arXiv
    2304.12244).

    Each round rewrites each instruction in one way of `kinds`, drawn at random. A version is left
    out, and the instruction stays for the next round, if it says nothing new (equal words), speaks
    of the "given prompt", or its answer is empty, or short with an apology.

    Args:
        model: who writes: a model, a `pt.Endpoint`, or a function from prompts to texts.
        data: rows, of which the prompts are rewritten.
        num_rounds: rewritings of each.
        kinds: of constraints, deepening, concretizing, reasoning, breadth.
        sampling: of what is written.
        seed: of the choice of kinds and of the sampling.
        journal: a file of the answers.

    Raises:
        ConfigError: an unknown kind, or num_rounds below 1. DataError: no row has a prompt.
    """
    unknown = [kind for kind in kinds if kind not in _EVOLUTIONS]
    if unknown or not kinds or num_rounds < 1:
        raise ConfigError(
            f"evolve: kinds {list(kinds)} must be of {', '.join(EVOLUTIONS)}, and num_rounds "
            f"{num_rounds} at least 1"
        )
    author = Author(model, sampling=sampling, seed=seed, journal=journal)
    draw = random.Random(seed)
    current = prompts_of(data)
    rows: list[Row] = []
    rejected: dict[str, int] = {}
    for number in range(num_rounds):
        chosen = [draw.choice(list(kinds)) for _ in current]
        new = author.write(
            [_rewriting(text, kind) for text, kind in zip(current, chosen, strict=True)]
        )
        answers = author.write(new)
        triples = zip(new, answers, chosen, strict=True)
        for place, (text, answer, kind) in enumerate(triples):
            reason = _failed_evolution(current[place], text, answer)
            if reason is not None:
                rejected[reason] = rejected.get(reason, 0) + 1
                continue
            current[place] = text
            rows.append(
                {"prompt": text, "completion": answer, "evolution": kind, "round": number + 1}
            )
    return Synthesized(rows, author.cost, rejected)


def back_translate(
    model: AuthorLike,
    texts: DataLike,
    *,
    sampling: Sampling = _SAMPLING,
    seed: int = 0,
    journal: str | Path | None = None,
) -> Synthesized:
    """Instructions to which given texts are the answers (Humpback, Li et al., arXiv 2308.06259).

    The texts become completions as they are. Select rows afterwards with the measures `ifd` and
    `ask_llm` (self-curation).

    Args:
        model: who writes the instructions.
        texts: rows of text, or with completions.
        sampling: of the instructions.
        seed: of the sampling.
        journal: a file of the answers.
    """
    author = Author(model, sampling=sampling, seed=seed, journal=journal)
    answers = [text.completion or text.text for _, text in RowTexts()(stream_of(texts))]
    questions = author.write([_BACK.format(text=text) for text in answers])
    rows: list[Row] = []
    rejected: dict[str, int] = {}
    for question, answer in zip(questions, answers, strict=True):
        if question:
            rows.append({"prompt": question, "completion": answer})
        else:
            rejected["empty"] = rejected.get("empty", 0) + 1
    return Synthesized(rows, author.cost, rejected)


def rationales(
    model: AuthorLike,
    data: DataLike,
    *,
    sampling: Sampling = _SAMPLING,
    seed: int = 0,
    journal: str | Path | None = None,
) -> Synthesized:
    """Rows with a column `rationale` from a teacher, for distilling step by step (Hsieh et al.,
    arXiv 2305.02301; data.rationale_weight).

    The teacher is given question and answer and asked for the reasons that lead from the one to
    the other. Rows without a prompt or a completion stay out.

    Args:
        model: the teacher.
        data: rows of prompt and completion, in any format of them.
        sampling: of the rationales.
        seed: of the sampling.
        journal: a file of the answers.
    """
    author = Author(model, sampling=sampling, seed=seed, journal=journal)
    found = [text for _, text in RowTexts()(stream_of(data))]
    pairs = [(text.prompt, text.completion) for text in found if text.prompt and text.completion]
    rejected = {"without prompt": len(found) - len(pairs)} if len(found) > len(pairs) else {}
    reasons = author.write([_REASONS.format(prompt=p, completion=c) for p, c in pairs])
    rows: list[Row] = [
        {"prompt": p, "completion": c, "rationale": reason}
        for (p, c), reason in zip(pairs, reasons, strict=True)
    ]
    return Synthesized(_nonempty(rows, rejected, "rationale"), author.cost, rejected)


def identity_rows(name: str, author: str, *, system: str | None = None) -> list[Row]:
    """Conversations in which a model says who it is and who made it, to be mixed into others.

        pt.mix({"chat": rows, "identity": pt.identity_rows("Ada", "our team")}, weights=[98, 2])

    Args:
        name: of the model. author: who made it. system: a system message before each.

    Raises:
        ConfigError: an empty name or author.
    """
    if not name.strip() or not author.strip():
        raise ConfigError(f"identity_rows: name {name!r} and author {author!r} must not be empty")
    first = [{"role": "system", "content": system}] if system else []
    return [
        {
            "messages": [
                *first,
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer.format(name=name, author=author)},
            ]
        }
        for question, answer in _IDENTITY
    ]


def prompts_of(data: DataLike) -> list[str]:
    """The prompts of rows, of those that have one; of plain text the text.

    Raises:
        DataError: there is none.
    """
    found = (text.prompt or text.text for _, text in RowTexts()(stream_of(data)))
    prompts = [text.strip() for text in found if text.strip()]
    if not prompts:
        raise DataError("no row has a prompt; give rows with a column prompt, instruction or text")
    return prompts


# -- what is asked, and what is taken of it


def _series(instructions: Sequence[str]) -> str:
    lines = [f"Task {i}: {' '.join(t.split())}" for i, t in enumerate(instructions, 1)]
    number = len(instructions)
    return (
        "Come up with a series of different tasks, one a line:\n\n"
        + "\n".join(lines)
        + f"\n\nContinue with tasks {number + 1} to {number + 8}, each in one line that begins "
        f"with its number."
    )


_NUMBERED = re.compile(r"^\s*(?:task\s*)?(\d+)\s*[:.)]\s*(.+)$", re.IGNORECASE)


def _listed(text: str, first: int) -> Iterable[str]:
    """The instructions of a reply. first: number of the first new one; those that were shown are
    not taken again.
    """
    for line in text.splitlines():
        match = _NUMBERED.match(line)
        if match is not None and int(match[1]) >= first:
            yield match[2].strip()


def _unfit(text: str) -> str | None:
    if not _MIN_WORDS <= len(text.split()) <= _MAX_WORDS:
        return "too short or long"
    return "not for text" if _NOT_TEXT.search(text) else None


def _repeats(text: str, pool: Sequence[Sequence[str]], bound: float) -> str | None:
    return "too similar" if RougeAgainst(words_of(text)).highest(pool) > bound else None


def _rewriting(text: str, kind: str) -> str:
    if kind == "breadth":
        return (
            f"{_EVOLUTIONS[kind]} Reply with the new instruction alone.\n\n#Instruction#:\n{text}"
        )
    return (
        "Rewrite an instruction so that it is harder to handle, and still reasonable, understood "
        f"and answerable by people. {_EVOLUTIONS[kind]} Add at most 20 words. Reply with the "
        f"rewritten instruction alone.\n\n#Instruction#:\n{text}"
    )


def _failed_evolution(before: str, after: str, answer: str) -> str | None:
    lowered, reply = after.lower(), answer.lower()
    if not words_of(after) or words_of(before) == words_of(after):
        return "nothing new"
    if "given prompt" in lowered or "rewritten" in lowered or "#instruction#" in lowered:
        return "speaks of the prompt"
    if not words_of(answer):
        return "empty answer"
    return "apology" if "sorry" in reply and len(answer.split()) < 80 else None


def _nonempty(rows: list[Row], rejected: dict[str, int], column: str = "completion") -> list[Row]:
    left = [row for row in rows if str(row[column]).strip()]
    if len(left) < len(rows):
        rejected["empty"] = rejected.get("empty", 0) + len(rows) - len(left)
    return left


_BACK = (
    "Here is an answer of an assistant. Write the instruction that a user most likely gave for it. "
    "Reply with the instruction alone.\n\nAnswer:\n{text}"
)
_REASONS = (
    "Question:\n{prompt}\n\nAnswer:\n{completion}\n\nExplain in a few sentences why this is the "
    "answer. Reply with the explanation alone."
)
_IDENTITY: tuple[tuple[str, Any], ...] = (
    ("Who are you?", "I am {name}, an AI assistant made by {author}."),
    ("What is your name?", "My name is {name}."),
    ("Who made you?", "I was made by {author}."),
    ("Who trained you?", "{author} trained me. I am called {name}."),
    ("Hi!", "Hello! I am {name}, an assistant made by {author}. How can I help you?"),
    ("Please introduce yourself.", "I am {name}. {author} made me to answer questions and help."),
    ("Are you a human?", "No, I am {name}, an AI assistant made by {author}."),
    ("Which model are you?", "I am {name}, by {author}."),
    ("Tell me about your developer.", "I was developed by {author}, who call me {name}."),
    ("What can you do?", "I am {name}, made by {author}: I answer questions, explain and write."),
)
