"""Which of the known row formats a data set has, and one shape for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data.item import Item, Row, messages_of, rest_of, text_of, text_or_messages, tools_of
from posttrain.errors import DataError, shown
from posttrain.types import Message


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A format's name and why it was taken for that."""

    name: str
    reason: str


# Format -> columns that make it. The first whose columns are all there is taken, so that richer
# formats come first.
_FORMATS: list[tuple[str, frozenset[str]]] = [
    ("verl", frozenset({"prompt", "reward_model"})),
    ("stepwise", frozenset({"prompt", "completions", "labels"})),
    ("listwise", frozenset({"prompt", "completions", "rewards"})),
    ("listwise", frozenset({"prompt", "completions", "scores"})),
    ("listwise", frozenset({"prompt", "completions", "ranks"})),
    ("step preference", frozenset({"prompt", "initial_reason_steps", "chosen", "rejected"})),
    ("step preference", frozenset({"prompt", "full_chosen", "full_rejected"})),
    ("triple preference", frozenset({"prompt", "chosen", "rejected", "reference"})),
    ("alpaca preference", frozenset({"instruction", "chosen", "rejected"})),
    ("sharegpt preference", frozenset({"conversations", "chosen", "rejected"})),
    ("preference", frozenset({"chosen", "rejected"})),
    ("alpaca unpaired preference", frozenset({"instruction", "output", "kto_tag"})),
    ("unpaired preference", frozenset({"prompt", "completion", "label"})),
    ("rewarded", frozenset({"prompt", "completion", "reward"})),
    ("prompt-completion", frozenset({"prompt", "completion"})),
    ("alpaca", frozenset({"instruction", "output"})),
    ("sharegpt", frozenset({"conversations"})),
    ("messages", frozenset({"messages"})),
    ("question-answer", frozenset({"question", "answer"})),
    ("prompt-only", frozenset({"prompt"})),
    ("text", frozenset({"text"})),
]


def detect_format(rows: Sequence[Row]) -> RowFormat:
    """The format of a data set, by the columns that its first rows have.

    Raises:
        DataError: no known format; lists the columns and what is accepted.
    """
    columns = {key for row in rows[:50] for key, value in row.items() if value is not None}
    for name, wanted in _FORMATS:
        if wanted <= columns:
            others = sorted(columns - wanted)
            more = f"; other columns: {', '.join(others)}" if others else ""
            return RowFormat(name, f"columns {', '.join(sorted(wanted))}{more}")
    plain = ("prompt-completion", "messages", "preference", "text")
    near = sorted(_FORMATS, key=lambda item: (-len(item[1] & columns), item[0] not in plain))[:4]
    accepted = "; ".join(f"{name}: {', '.join(sorted(wanted))}" for name, wanted in near)
    listed = ", ".join(sorted(str(c)[:40] for c in columns)[:12]) or "(none)"
    raise DataError(
        f"no known format has the columns {listed}. The nearest formats: {accepted}. "
        "Rename columns with data.columns: {ours: theirs}, such as {prompt: input, completion: "
        "target}"
    )


# Formats without a completion to imitate -> what they are for.
_NOT_IMITATED = {
    "prompt-only": "prompts are for sampling: method grpo with task: {name: jsonl, path: ...}",
    "verl": "prompts are for sampling: method grpo with task: {name: jsonl, path: ...}",
    "stepwise": "labelled steps teach a judge of steps, not a writer",
}


def rows_to_imitate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that fine-tuning imitates: all of them, of unpaired preferences the desirable ones
    alone.

    Raises:
        DataError: the format has no completion to imitate; says what it is for.
    """
    form = format_to_imitate(rows)
    desirable = [row for row in rows if to_imitate(row, form)]
    if not desirable:
        raise DataError(
            f"the rows are of format {form.name} and none is desirable, so there is nothing to "
            "imitate"
        )
    return desirable


def to_imitate(row: Row, form: RowFormat) -> bool:
    """Whether fine-tuning imitates a row: one that is not labelled undesirable."""
    return "unpaired" not in form.name or row.get("label", row.get("kto_tag")) not in (False, 0)


def format_to_imitate(rows: Sequence[Row]) -> RowFormat:
    """The format of rows, which must have a completion to imitate.

    Raises:
        DataError: the format has none; says what it is for.
    """
    form = detect_format(rows)
    paired = "preference" in form.name and "unpaired" not in form.name
    use = "pairs are for method dpo" if paired else _NOT_IMITATED.get(form.name)
    if use is not None:
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}), without a completion to learn "
            f"from; {use}"
        )
    return form


def normalise(row: Row, form: RowFormat, name: str) -> Item:
    """A row in one shape.

    Args:
        name: of the row, for messages.
    Raises:
        DataError: a column of the wrong type, or empty where text is needed.
    """
    try:
        return _READERS[form.name](row, name)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = str(error)[:200]
        raise DataError(
            f"row {name}: not a {form.name} row ({type(error).__name__}: {reason})"
        ) from error


def _chat(row: Row, column: str, name: str) -> Item:
    """A whole conversation: everything up to the last assistant turn is prompt, all of it is
    kept together.
    """
    messages = messages_of(row[column], column, name)
    system = row.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    if not any(m["role"] == "assistant" for m in messages):
        raise DataError(
            f"row {name}: the conversation has no assistant turn, so there is nothing to learn"
        )
    return Item(
        name,
        completion=messages,
        tools=tools_of(row, name),
        columns=rest_of(row, column, "tools", "system"),
    )


def _prompt_completion(row: Row, name: str) -> Item:
    prompt, completion = (
        text_or_messages(row, "prompt", name),
        text_or_messages(row, "completion", name),
    )
    if isinstance(prompt, str) != isinstance(completion, str):
        raise DataError(f"row {name}: prompt and completion must both be text or both be messages")
    columns = rest_of(row, "prompt", "completion", "label", "tools")
    return Item(
        name, prompt=prompt, completion=completion, tools=tools_of(row, name), columns=columns
    )


def _unpaired(row: Row, name: str) -> Item:
    item = _prompt_completion(row, name)
    item.label = _label(row, "label", name)
    return item


def _label(row: Row, column: str, name: str) -> bool:
    if row[column] not in (True, False):
        raise DataError(
            f"row {name}: {column} is {row[column]!r}; it must be true (desirable) or false"
        )
    return bool(row[column])


def _rewarded(row: Row, name: str) -> Item:
    item = _prompt_completion(row, name)
    reward = item.columns.pop("reward", None)
    if reward is not None:
        if isinstance(reward, str) or not math.isfinite(float(reward)):
            raise DataError(f"row {name}: reward is {reward!r}; it must be a finite number")
        item.reward = float(reward)
    return item


def _preference(row: Row, name: str) -> Item:
    chosen, rejected = (
        text_or_messages(row, "chosen", name),
        text_or_messages(row, "rejected", name),
    )
    prompt = text_or_messages(row, "prompt", name) if row.get("prompt") is not None else None
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    margin, probability = (
        float(row[k]) if row.get(k) is not None else None for k in ("margin", "probability")
    )
    if margin is not None and not math.isfinite(margin):
        raise DataError(
            f"row {name}: margin is {margin}; it must be a finite number, or empty in every row"
        )
    if probability is not None and not 0 <= probability <= 1:
        raise DataError(
            f"row {name}: probability is {probability}; it must be from 0 to 1: that the chosen "
            "one is better"
        )
    columns = rest_of(row, "prompt", "chosen", "rejected", "margin", "probability")
    return Item(
        name,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        margin=margin,
        probability=probability,
        columns=columns,
    )


def _triple(row: Row, name: str) -> Item:
    item = _preference(row, name)
    item.reference = text_or_messages(row, "reference", name)
    if isinstance(item.reference, str) != isinstance(item.chosen, str):
        raise DataError(
            f"row {name}: chosen, rejected and reference must all be text or all be messages"
        )
    return item


def _step_preference(row: Row, name: str) -> Item:
    """Two ways to go on from the same steps: as the row gives them, or the first lines in which
    two solutions differ.
    """
    prefix = str(row.get("initial_reason_steps") or "")
    if row.get("chosen") is not None and row.get("rejected") is not None:
        item = _preference(row, name)
        if not isinstance(item.chosen, str) or not isinstance(item.rejected, str):
            raise DataError(
                f"row {name}: chosen and rejected of a step preference must be text, the next "
                "step alone"
            )
        item.prefix = prefix
        return item
    chosen, rejected = (
        text_of(row, column, name).splitlines(keepends=True)
        for column in ("full_chosen", "full_rejected")
    )
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return Item(
        name,
        prompt=text_or_messages(row, "prompt", name),
        prefix=prefix + "".join(chosen[:shared]),
        chosen=chosen[shared],
        rejected=rejected[shared],
        columns=rest_of(row, "prompt", "initial_reason_steps", "full_chosen", "full_rejected"),
    )


def _stepwise(row: Row, name: str) -> Item:
    steps, labels = list(row["completions"]), [float(x) for x in row["labels"]]
    if len(steps) != len(labels):
        raise DataError(f"row {name}: {len(steps)} completions but {len(labels)} labels")
    if wrong := [x for x in labels if not 0 <= x <= 1]:
        raise DataError(
            f"row {name}: the label {wrong[0]:g} is neither true nor false nor a share from 0 to 1"
        )
    if empty := [
        i for i, step in enumerate(steps) if not isinstance(step, str) or not step.strip()
    ]:
        raise DataError(
            f"row {name}: completions[{empty[0]}] is {steps[empty[0]]!r}; a step is text that is "
            "not empty"
        )
    return Item(name, prompt=text_or_messages(row, "prompt", name), steps=steps, step_labels=labels)


def _listwise(row: Row, name: str) -> Item:
    texts = row["completions"]
    column = next((c for c in ("rewards", "scores", "ranks") if row.get(c) is not None), None)
    if column is None:
        raise DataError(
            f"row {name}: no numbers for its completions; give rewards, scores or ranks, one for "
            "each"
        )
    if not isinstance(row[column], list):
        raise DataError(
            f"row {name}: {column} is {shown(row[column])}; it must be a list of numbers"
        )
    numbers = [
        -float(x) if column == "ranks" else float(x) for x in row[column]
    ]  # rank 1 is the best
    if not isinstance(texts, list) or len(texts) != len(numbers):
        raise DataError(f"row {name}: {len(texts)} completions but {len(numbers)} {column}")
    if not all(math.isfinite(number) for number in numbers):
        raise DataError(f"row {name}: {column} are {row[column]}; each must be a finite number")
    return Item(
        name,
        prompt=text_or_messages(row, "prompt", name),
        completions=[text_or_messages({"completions": t}, "completions", name) for t in texts],
        rewards=numbers,
        columns=rest_of(row, "prompt", "completions", "rewards", "scores", "ranks"),
    )


def _alpaca_prompt(row: Row, name: str) -> list[Message]:
    given = row.get("input")
    text = text_of(row, "instruction", name) + (
        f"\n{given}" if isinstance(given, str) and given.strip() else ""
    )
    messages: list[Message] = []
    if isinstance(row.get("system"), str) and row["system"]:
        messages.append({"role": "system", "content": row["system"]})
    for user, assistant in row.get("history") or []:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return [*messages, {"role": "user", "content": text}]


def _assistant(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


_ALPACA = ("instruction", "input", "output", "system", "history", "chosen", "rejected", "kto_tag")


def _alpaca(row: Row, name: str) -> Item:
    answer = _assistant(text_of(row, "output", name))
    return Item(
        name, prompt=_alpaca_prompt(row, name), completion=answer, columns=rest_of(row, *_ALPACA)
    )


def _alpaca_unpaired(row: Row, name: str) -> Item:
    item = _alpaca(row, name)
    item.label = _label(row, "kto_tag", name)
    return item


def _alpaca_preference(row: Row, name: str) -> Item:
    chosen, rejected = (
        _assistant(text_of(row, "chosen", name)),
        _assistant(text_of(row, "rejected", name)),
    )
    return Item(
        name,
        prompt=_alpaca_prompt(row, name),
        chosen=chosen,
        rejected=rejected,
        columns=rest_of(row, *_ALPACA),
    )


def _sharegpt_preference(row: Row, name: str) -> Item:
    prompt = messages_of(row["conversations"], "conversations", name)
    chosen = row["chosen"] if isinstance(row["chosen"], list) else [row["chosen"]]
    rejected = row["rejected"] if isinstance(row["rejected"], list) else [row["rejected"]]
    return Item(
        name,
        prompt=prompt,
        chosen=messages_of(chosen, "chosen", name),
        rejected=messages_of(rejected, "rejected", name),
        columns=rest_of(row, "conversations", "chosen", "rejected"),
    )


def _verl(row: Row, name: str) -> Item:
    answer = row["reward_model"].get("ground_truth")
    if answer is None:
        raise DataError(f"row {name}: reward_model has no ground_truth")
    columns = {**rest_of(row, "prompt", "reward_model"), "ground_truth": answer}
    return Item(name, prompt=text_or_messages(row, "prompt", name), answer=answer, columns=columns)


def _prompt_only(row: Row, name: str) -> Item:
    columns = rest_of(row, "prompt")
    prompt = text_or_messages(row, "prompt", name)
    return Item(
        name, prompt=prompt, answer=row.get("answer"), tools=tools_of(row, name), columns=columns
    )


def _question_answer(row: Row, name: str) -> Item:
    question, answer = text_of(row, "question", name), str(row["answer"])
    if not answer.strip():
        raise DataError(f"row {name}: column 'answer' is empty")
    return Item(
        name,
        prompt=f"{question}\n",
        completion=answer,
        answer=answer,
        columns=rest_of(row, "question", "answer"),
    )


_READERS: dict[str, Any] = {
    "text": lambda row, name: Item(
        name, text=text_of(row, "text", name), columns=rest_of(row, "text")
    ),
    "messages": lambda row, name: _chat(row, "messages", name),
    "sharegpt": lambda row, name: _chat(row, "conversations", name),
    "prompt-completion": _prompt_completion,
    "rewarded": _rewarded,
    "prompt-only": _prompt_only,
    "question-answer": _question_answer,
    "preference": _preference,
    "step preference": _step_preference,
    "triple preference": _triple,
    "unpaired preference": _unpaired,
    "stepwise": _stepwise,
    "listwise": _listwise,
    "alpaca": _alpaca,
    "alpaca preference": _alpaca_preference,
    "alpaca unpaired preference": _alpaca_unpaired,
    "sharegpt preference": _sharegpt_preference,
    "verl": _verl,
}
