"""`posttrain chat MODEL`: a conversation in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from posttrain.cli.runs import notice
from posttrain.cli.writer import Writer
from posttrain.terminal import echo
from posttrain.types import Message

_HELP = "/new starts over, /undo drops the last turn, /quit (or Ctrl-D) ends."


def chat(
    model: str,
    overrides: Sequence[str],
    *,
    system: str | None = None,
    seed: int = 0,
    read: Callable[[str], str] = input,
) -> int:
    """Read lines and answer each, with the tokenizer's chat template if it has one.

    A model without a template continues each line as plain text and remembers nothing.

    Args:
        overrides: `key=value` texts of sampling and model. read: shows a prompt, returns a line.
    """
    writer = Writer(model, overrides, seed=seed)
    if writer.has_template:
        notice(f"chat with {model}. {_HELP}")
    else:
        notice(
            f"{model} has no chat template: each line is continued as plain text, without the "
            f"lines before. {_HELP}"
        )
    start: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    messages = list(start)
    turn = 0
    while True:
        try:
            line = read("> ")
        except (EOFError, KeyboardInterrupt):
            echo()
            return 0
        if not line.strip():
            continue
        if line.strip() in ("/quit", "/exit"):
            return 0
        if line.strip() == "/new":
            messages = list(start)
        elif line.strip() == "/undo":
            messages = messages[:-2] if len(messages) > len(start) else messages
        elif line.startswith("/"):
            notice(_HELP)
        else:
            messages = _answer(writer, messages, line, system, seed + turn)
            turn += 1


def _answer(
    writer: Writer, messages: list[Message], line: str, system: str | None, seed: int
) -> list[Message]:
    """Print the answer to a line; the conversation with both."""
    conversation = [*messages, {"role": "user", "content": line}]
    plain = line if system is None else f"{system}\n\n{line}"
    try:
        ((answer,),) = writer.write([conversation if writer.has_template else plain], seed=seed)
    except KeyboardInterrupt:
        notice("(stopped)")
        return messages
    text = answer["completion"]
    echo(text.strip() if writer.has_template else text)
    if answer["finish_reason"] == "length":
        notice("(cut at max_tokens; raise it with max_tokens=N)")
    return [*conversation, {"role": "assistant", "content": text}]
