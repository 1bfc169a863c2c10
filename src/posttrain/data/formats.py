"""Which of the known row formats a data set has, and one shape for all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.errors import DataError
from posttrain.types import Message, Text

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A format's name and why it was taken for that."""

    name: str
    reason: str


@dataclass(slots=True)
class Item:
    """A row in one shape. Which fields are set depends on the format.

    text: plain text. prompt, completion: text or messages. chosen, rejected: completions. label: desirable or not.
    steps, step_labels: of a stepwise row, labels from 0 to 1. completions, rewards: of a listwise row, higher is better.
    reward: of a rewarded row, None where it has none. tools: JSON schemas. answer: the gold answer. margin: of a preference.
    probability: that the chosen completion is the better one.
    columns: everything else, by name. row: name for messages.
    """

    row: str
    text: str | None = None
    prompt: Text | None = None
    completion: Text | None = None
    chosen: Text | None = None
    rejected: Text | None = None
    label: bool | None = None
    steps: list[str] = field(default_factory=list)
    step_labels: list[float] = field(default_factory=list)
    completions: list[Text] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    reward: float | None = None
    tools: list[Any] | None = None
    answer: Any = None
    margin: float | None = None
    probability: float | None = None
    columns: dict[str, Any] = field(default_factory=dict)


# Format -> columns that make it. The first whose columns are all there is taken, so that richer formats come first.
_FORMATS: list[tuple[str, frozenset[str]]] = [
    ("verl", frozenset({"prompt", "reward_model"})),
    ("stepwise", frozenset({"prompt", "completions", "labels"})),
    ("listwise", frozenset({"prompt", "completions", "rewards"})),
    ("listwise", frozenset({"prompt", "completions", "ranks"})),
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

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function": "tool",
    "system": "system",
    "developer": "system",
}


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
    accepted = "; ".join(f"{name}: {', '.join(sorted(wanted))}" for name, wanted in _FORMATS)
    raise DataError(
        f"no known format has the columns {', '.join(sorted(columns)) or '(none)'}. Accepted are {accepted}. "
        "Rename columns with data.columns: {ours: theirs}, such as {prompt: input, completion: target}"
    )


# Formats without a completion to imitate -> what they are for.
_NOT_IMITATED = {
    "prompt-only": "prompts are for sampling: method grpo with task: {name: jsonl, path: ...}",
    "verl": "prompts are for sampling: method grpo with task: {name: jsonl, path: ...}",
    "stepwise": "labelled steps teach a judge of steps, not a writer",
}


def rows_to_imitate(rows: Sequence[Row]) -> list[Row]:
    """The rows that fine-tuning imitates: all of them, of unpaired preferences the desirable ones alone.

    Raises:
        DataError: the format has no completion to imitate; says what it is for.
    """
    form = detect_format(rows)
    paired = "preference" in form.name and "unpaired" not in form.name
    use = "pairs are for method dpo" if paired else _NOT_IMITATED.get(form.name)
    if use is not None:
        raise DataError(f"the rows are of format {form.name} ({form.reason}), without a completion to learn from; {use}")
    if "unpaired" not in form.name:
        return list(rows)
    desirable = [row for row in rows if row.get("label", row.get("kto_tag")) not in (False, 0)]
    if not desirable:
        raise DataError(f"the rows are of format {form.name} and none is desirable, so there is nothing to imitate")
    return desirable


def normalise(row: Row, form: RowFormat, name: str) -> Item:
    """A row in one shape.

    Args:
        name: of the row, for messages.
    Raises:
        DataError: a column of the wrong type, or empty where text is needed.
    """
    try:
        return _READERS[form.name](row, name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"row {name}: not a {form.name} row ({type(error).__name__}: {error})") from error


def _text(row: Row, column: str, name: str, *, empty: bool = False) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        kind = "missing" if value is None else f"{type(value).__name__}, not text"
        raise DataError(f"row {name}: column {column!r} is {kind}")
    if not value.strip() and not empty:
        raise DataError(f"row {name}: column {column!r} is empty")
    return value


def _text_or_messages(row: Row, column: str, name: str) -> Text:
    value = row.get(column)
    if isinstance(value, str) or value is None:
        return _text(row, column, name)
    return _messages(value, column, name)


def _messages(value: Any, column: str, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise DataError(f"row {name}: column {column!r} must be text or a list of messages, not {value!r:.80}")
    out: list[Message] = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise DataError(f"row {name}: {column}[{number}] is {message!r:.60}, not a message {{role, content}}")
        raw_role = message.get("role", message.get("from"))
        role = _ROLES.get(str(raw_role))
        if role is None:
            raise DataError(f"row {name}: {column}[{number}] has the role {raw_role!r}; known are {', '.join(_ROLES)}")
        content = message.get("content", message.get("value"))
        # Message lists that went through Arrow carry every key of every message, as None.
        kept = {k: v for k, v in message.items() if k not in ("role", "from", "content", "value") and v is not None}
        made: Message = {"role": role, "content": "" if content is None else content, **kept}
        if raw_role == "function_call":
            made = {"role": role, "content": "", "tool_calls": _calls(content, name)}
        if content is None and "tool_calls" not in made:
            raise DataError(f"row {name}: {column}[{number}] has no content")
        out.append(made)
    return out


def _calls(content: Any, name: str) -> list[dict[str, Any]]:
    try:
        calls = json.loads(content) if isinstance(content, str) else content
    except json.JSONDecodeError as error:
        raise DataError(f"row {name}: a function_call is not valid JSON: {content!r:.80}") from error
    calls = calls if isinstance(calls, list) else [calls]
    return [{"type": "function", "function": {"name": c["name"], "arguments": c.get("arguments", {})}} for c in calls]


def _tools(row: Row, name: str) -> list[Any] | None:
    tools = row.get("tools")
    if isinstance(tools, str):
        if not tools.strip():
            return None
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise DataError(f"row {name}: column 'tools' is not valid JSON") from error
    return tools or None


def _rest(row: Row, *used: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in used}


def _chat(row: Row, column: str, name: str) -> Item:
    """A whole conversation: everything up to the last assistant turn is prompt, all of it is kept together."""
    messages = _messages(row[column], column, name)
    system = row.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    if not any(m["role"] == "assistant" for m in messages):
        raise DataError(f"row {name}: the conversation has no assistant turn, so there is nothing to learn")
    return Item(name, completion=messages, tools=_tools(row, name), columns=_rest(row, column, "tools", "system"))


def _prompt_completion(row: Row, name: str) -> Item:
    prompt, completion = _text_or_messages(row, "prompt", name), _text_or_messages(row, "completion", name)
    if isinstance(prompt, str) != isinstance(completion, str):
        raise DataError(f"row {name}: prompt and completion must both be text or both be messages")
    columns = _rest(row, "prompt", "completion", "label", "tools")
    return Item(name, prompt=prompt, completion=completion, tools=_tools(row, name), columns=columns)


def _unpaired(row: Row, name: str) -> Item:
    item = _prompt_completion(row, name)
    if not isinstance(row["label"], bool) and row["label"] not in (0, 1):
        raise DataError(f"row {name}: label is {row['label']!r}; it must be true (desirable) or false")
    item.label = bool(row["label"])
    return item


def _rewarded(row: Row, name: str) -> Item:
    item = _prompt_completion(row, name)
    reward = item.columns.pop("reward", None)
    if reward is not None:
        if isinstance(reward, str) or not math.isfinite(float(reward)):
            raise DataError(f"row {name}: reward is {reward!r}; it must be a finite number")
        item.reward = float(reward)
    return item


def _preference(row: Row, name: str) -> Item:
    chosen, rejected = _text_or_messages(row, "chosen", name), _text_or_messages(row, "rejected", name)
    prompt = _text_or_messages(row, "prompt", name) if row.get("prompt") is not None else None
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    margin, probability = (float(row[k]) if row.get(k) is not None else None for k in ("margin", "probability"))
    if probability is not None and not 0 <= probability <= 1:
        raise DataError(f"row {name}: probability is {probability}; it must be from 0 to 1: that the chosen one is better")
    columns = _rest(row, "prompt", "chosen", "rejected", "margin", "probability")
    return Item(name, prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, probability=probability, columns=columns)


def _stepwise(row: Row, name: str) -> Item:
    steps, labels = list(row["completions"]), [float(x) for x in row["labels"]]
    if len(steps) != len(labels):
        raise DataError(f"row {name}: {len(steps)} completions but {len(labels)} labels")
    if wrong := [x for x in labels if not 0 <= x <= 1]:
        raise DataError(f"row {name}: the label {wrong[0]:g} is neither true nor false nor a share from 0 to 1")
    if empty := [i for i, step in enumerate(steps) if not isinstance(step, str) or not step.strip()]:
        raise DataError(f"row {name}: completions[{empty[0]}] is {steps[empty[0]]!r}; a step is text that is not empty")
    return Item(name, prompt=_text_or_messages(row, "prompt", name), steps=steps, step_labels=labels)


def _listwise(row: Row, name: str) -> Item:
    texts = [_text_or_messages({"completions": t}, "completions", name) for t in row["completions"]]
    ranked = row.get("rewards") is None  # rank 1 is the best
    rewards = [-float(x) for x in row["ranks"]] if ranked else [float(x) for x in row["rewards"]]
    if len(texts) != len(rewards):
        raise DataError(f"row {name}: {len(texts)} completions but {len(rewards)} {'ranks' if ranked else 'rewards'}")
    columns = _rest(row, "prompt", "completions", "rewards", "ranks")
    return Item(name, prompt=_text_or_messages(row, "prompt", name), completions=texts, rewards=rewards, columns=columns)


def _alpaca_prompt(row: Row, name: str) -> list[Message]:
    given = row.get("input")
    text = _text(row, "instruction", name) + (f"\n{given}" if isinstance(given, str) and given.strip() else "")
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
    answer = _assistant(_text(row, "output", name))
    return Item(name, prompt=_alpaca_prompt(row, name), completion=answer, columns=_rest(row, *_ALPACA))


def _alpaca_unpaired(row: Row, name: str) -> Item:
    item = _alpaca(row, name)
    item.label = bool(row["kto_tag"])
    return item


def _alpaca_preference(row: Row, name: str) -> Item:
    chosen, rejected = _assistant(_text(row, "chosen", name)), _assistant(_text(row, "rejected", name))
    return Item(name, prompt=_alpaca_prompt(row, name), chosen=chosen, rejected=rejected, columns=_rest(row, *_ALPACA))


def _sharegpt_preference(row: Row, name: str) -> Item:
    prompt = _messages(row["conversations"], "conversations", name)
    chosen = row["chosen"] if isinstance(row["chosen"], list) else [row["chosen"]]
    rejected = row["rejected"] if isinstance(row["rejected"], list) else [row["rejected"]]
    return Item(
        name,
        prompt=prompt,
        chosen=_messages(chosen, "chosen", name),
        rejected=_messages(rejected, "rejected", name),
        columns=_rest(row, "conversations", "chosen", "rejected"),
    )


def _verl(row: Row, name: str) -> Item:
    answer = row["reward_model"].get("ground_truth")
    if answer is None:
        raise DataError(f"row {name}: reward_model has no ground_truth")
    columns = {**_rest(row, "prompt", "reward_model"), "ground_truth": answer}
    return Item(name, prompt=_text_or_messages(row, "prompt", name), answer=answer, columns=columns)


def _prompt_only(row: Row, name: str) -> Item:
    columns = _rest(row, "prompt")
    prompt = _text_or_messages(row, "prompt", name)
    return Item(name, prompt=prompt, answer=row.get("answer"), tools=_tools(row, name), columns=columns)


def _question_answer(row: Row, name: str) -> Item:
    question, answer = _text(row, "question", name), str(row["answer"])
    if not answer.strip():
        raise DataError(f"row {name}: column 'answer' is empty")
    return Item(
        name,
        prompt=f"{question}\n",
        completion=answer,
        answer=answer,
        columns=_rest(row, "question", "answer"),
    )


_READERS: dict[str, Any] = {
    "text": lambda row, name: Item(name, text=_text(row, "text", name), columns=_rest(row, "text")),
    "messages": lambda row, name: _chat(row, "messages", name),
    "sharegpt": lambda row, name: _chat(row, "conversations", name),
    "prompt-completion": _prompt_completion,
    "rewarded": _rewarded,
    "prompt-only": _prompt_only,
    "question-answer": _question_answer,
    "preference": _preference,
    "unpaired preference": _unpaired,
    "stepwise": _stepwise,
    "listwise": _listwise,
    "alpaca": _alpaca,
    "alpaca preference": _alpaca_preference,
    "alpaca unpaired preference": _alpaca_unpaired,
    "sharegpt preference": _sharegpt_preference,
    "verl": _verl,
}
