"""Rows of each format in one shape."""

from __future__ import annotations

import math
from typing import Any

from posttrain.data.item import Item, Row, messages_of, rest_of, text_of, text_or_messages, tools_of
from posttrain.errors import DataError, shown
from posttrain.types import Message


def _chat(row: Row, column: str, name: str) -> Item:
    """A whole conversation, as a completion without a prompt."""
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
    margin = float(row["margin"]) if row.get("margin") is not None else None
    probability = float(row["probability"]) if row.get("probability") is not None else None
    if margin is not None and not math.isfinite(margin):
        raise DataError(
            f"row {name}: margin is {margin}; it must be a finite number, or empty in every row"
        )
    if probability is not None and not 0 <= probability <= 1:
        raise DataError(
            f"row {name}: probability is {probability}; it is the probability that chosen is "
            "better, from 0 to 1"
        )
    columns = rest_of(row, "prompt", "chosen", "rejected", "margin", "probability", "tools")
    return Item(
        name,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        margin=margin,
        probability=probability,
        tools=tools_of(row, name),
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
    """Two next steps after the same steps: columns of the row, or the first lines in which two
    solutions differ.
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
    for i, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise DataError(
                f"row {name}: completions[{i}] is {shown(step)}; a step is text that is not empty"
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
    sign = -1.0 if column == "ranks" else 1.0  # rank 1 is the best
    numbers = [sign * float(x) for x in row[column]]
    if not isinstance(texts, list) or len(texts) != len(numbers):
        raise DataError(f"row {name}: {len(texts)} completions but {len(numbers)} {column}")
    if not all(math.isfinite(number) for number in numbers):
        raise DataError(f"row {name}: {column} are {row[column]}; each must be a finite number")
    return Item(
        name,
        prompt=text_or_messages(row, "prompt", name),
        completions=[text_or_messages({"completions": t}, "completions", name) for t in texts],
        rewards=numbers,
        tools=tools_of(row, name),
        columns=rest_of(row, "prompt", "completions", "rewards", "scores", "ranks", "tools"),
    )


def _alpaca_prompt(row: Row, name: str) -> list[Message]:
    text = text_of(row, "instruction", name)
    more = row.get("input")
    if isinstance(more, str) and more.strip():
        text += f"\n{more}"
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
        tools=tools_of(row, name),
        columns=rest_of(row, "conversations", "chosen", "rejected", "tools"),
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


def _messages_preference(row: Row, name: str) -> Item:
    others = rest_of(row, "chosen_messages", "rejected_messages")
    sides = {"chosen": row["chosen_messages"], "rejected": row["rejected_messages"]}
    return _preference({**others, **sides}, name)


def _judged_chat(row: Row, column: str, verdict: str, name: str) -> Item:
    """A conversation whose last answer is labelled."""
    item = _chat(row, column, name)
    messages = item.completion
    assert isinstance(messages, list)
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise DataError(
            f"row {name}: {verdict} judges the last answer, and {column} does not end with an "
            "assistant turn behind another"
        )
    columns = {k: v for k, v in item.columns.items() if k != verdict}
    label = _label(row, verdict, name)
    return Item(
        name,
        prompt=messages[:-1],
        completion=messages[-1:],
        label=label,
        tools=item.tools,
        columns=columns,
    )


READERS: dict[str, Any] = {
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
    "messages preference": _messages_preference,
    "messages unpaired preference": lambda row, name: _judged_chat(row, "messages", "label", name),
    "sharegpt unpaired preference": lambda row, name: _judged_chat(
        row, "conversations", "kto_tag", name
    ),
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
