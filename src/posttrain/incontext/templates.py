"""How demonstrations and a question become a prompt, and a label what stands behind it."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from posttrain.data.templates import MARGIN, bos_id, part_ids, render
from posttrain.errors import ConfigError, TemplateError
from posttrain.incontext.rows import Labelled
from posttrain.types import Message, Text

_PROBE = "posttrain0probe"
"""A word that no template writes; it stands for a question's text."""


@dataclass(frozen=True, slots=True)
class Template:
    """The form of a prompt.

    A model with a chat template gets the instruction as system message and each demonstration as a
    turn of the user and one of the assistant; any other one text:

        instruction separator (input label separator)* input

    Attributes:
        instruction: what is to be done; "" for none.
        input: a question in plain text, up to where its label begins. {text} is the text.
        label: a label in plain text, with the space before it. {label} is the label's word.
        separator: between demonstrations.
        turn: the user's turn in a chat.
        chat: whether to use the chat template; None uses it where there is one.
        words: label -> the word that is written for it; a label without one stands for itself.
    """

    instruction: str = ""
    input: str = "Input: {text}\nLabel:"
    label: str = " {label}"
    separator: str = "\n\n"
    turn: str = "{text}"
    chat: bool | None = None
    words: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, key in (("input", "text"), ("label", "label"), ("turn", "text")):
            text = getattr(self, name)
            found = [key for _, key, _, _ in string.Formatter().parse(text) if key is not None]
            if found != [key]:
                raise ConfigError(
                    f"template.{name}: {text!r} must hold {{{key}}} once and no other braces; "
                    "write a brace itself as {{ or }}"
                )

    def word(self, label: str) -> str:
        """The word of a label."""
        return self.words.get(label, label)

    def text(self, shots: Sequence[Labelled], text: str) -> str:
        """The plain prompt."""
        return "".join([*self.pieces(shots), self.input.format(text=text)])

    def pieces(self, shots: Sequence[Labelled]) -> list[str]:
        """What stands before the question in plain text."""
        head = [self.instruction + self.separator] if self.instruction else []
        return head + [
            self.input.format(text=s.text)
            + self.label.format(label=self.word(s.label))
            + self.separator
            for s in shots
        ]

    def messages(self, shots: Sequence[Labelled], text: str) -> list[Message]:
        """The prompt as a chat, which ends with the user's turn."""
        messages: list[Message] = []
        if self.instruction:
            messages.append({"role": "system", "content": self.instruction})
        for shot in shots:
            messages.append({"role": "user", "content": self.turn.format(text=shot.text)})
            messages.append({"role": "assistant", "content": self.word(shot.label)})
        return [*messages, {"role": "user", "content": self.turn.format(text=text)}]


class PromptEncoder:
    """Prompts and labels of one template as token ids.

    A demonstration has the same ids wherever it stands, so that prompts with equal demonstrations
    begin with equal ids.

    Args:
        tokenizer: of the model. labels: in the order of the columns of scores.

    Raises:
        TemplateError: `chat` is true and there is no chat template, or it writes no label.
        ConfigError: two labels have the same tokens, or one has none.
    """

    def __init__(self, tokenizer: Any, template: Template, labels: Sequence[str]) -> None:
        self.tokenizer, self.template, self.labels = tokenizer, template, list(labels)
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if template.chat and not has_template:
            raise TemplateError(
                "template.chat is true and the tokenizer has no chat template; leave it out, or "
                "set model.chat_template"
            )
        self.is_chat = has_template if template.chat is None else template.chat
        self._pieces: dict[str, list[int]] = {}
        ids = [tuple(i) for i in self.label_ids]
        for number, label in enumerate(self.labels):
            if not ids[number] or ids[number] in ids[:number]:
                raise ConfigError(
                    f"label {label!r} is written with the token ids {list(ids[number])}, as no or "
                    "another label is; give it a word of its own in template.words"
                )

    @property
    def num_bytes(self) -> list[int]:
        """Bytes of each label's word."""
        return [len(self.template.word(label).encode()) for label in self.labels]

    @cached_property
    def label_ids(self) -> list[list[int]]:
        """Ids of each label as they stand behind a question."""
        if not self.is_chat:
            before = self.template.input.format(text="")[-MARGIN:]
            texts = [self.template.label.format(label=self.template.word(x)) for x in self.labels]
            return [self._inside(before, text) for text in texts]
        asked = self.template.messages([], "a")
        before = render(self.tokenizer, asked, generation=True)
        return [
            self._inside(before[-MARGIN:], self._said(asked, before, label))
            for label in self.labels
        ]

    def prompt(self, shots: Sequence[Labelled], text: str) -> Text:
        """The prompt as text or messages."""
        template = self.template
        return template.messages(shots, text) if self.is_chat else template.text(shots, text)

    def prompt_ids(self, shots: Sequence[Labelled], text: str) -> tuple[int, ...]:
        """The prompt's ids, BOS included where the tokenizer puts one."""
        if self.is_chat:
            rendered = render(self.tokenizer, self.template.messages(shots, text), generation=True)
            return tuple(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])
        bos = bos_id(self.tokenizer)
        ids = [] if bos is None else [bos]
        pieces = [*self.template.pieces(shots), self.template.input.format(text=text)]
        for number, piece in enumerate(pieces):
            ids += self._cached(piece, is_first=number == 0)
        return tuple(ids)

    def opening(self, shots: Sequence[Labelled]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids up to where a question's text begins, and those of what stands behind the text."""
        template = self.template
        if self.is_chat:
            whole = render(self.tokenizer, template.messages(shots, _PROBE), generation=True)
            before, _, behind = whole.partition(_PROBE)
            ids = self._inside("", before.rstrip(" "))
        else:
            before, _, behind = template.input.format(text=_PROBE).partition(_PROBE)
            bos, pieces = bos_id(self.tokenizer), template.pieces(shots)
            ids = [] if bos is None else [bos]
            for number, piece in enumerate([*pieces, before.rstrip(" ")]):
                ids += self._cached(piece, is_first=number == 0)
        return tuple(ids), tuple(self._inside("a", behind))

    def _cached(self, piece: str, *, is_first: bool) -> list[int]:
        key = f"{int(is_first)}{piece}"
        if key not in self._pieces:
            before = "" if is_first else self.template.separator or "\n"
            self._pieces[key] = self._inside(before, piece)
        return self._pieces[key]

    def _inside(self, before: str, text: str) -> list[int]:
        """Ids of a text behind another."""
        if not getattr(self.tokenizer, "is_fast", False):
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return part_ids(self.tokenizer, before, text, "").tolist() if text else []

    def _said(self, asked: list[Message], before: str, label: str) -> str:
        """What a chat template writes for a label, from the end of the prompt to the label's
        end.
        """
        word = self.template.word(label)
        through = render(self.tokenizer, [*asked, {"role": "assistant", "content": word}])
        behind = through[len(before) :] if through.startswith(before) else ""
        if word not in behind:
            raise TemplateError(
                f"the chat template does not write the label {word!r} behind its generation "
                "prompt; set template.chat to false"
            )
        return behind[: behind.index(word) + len(word)]
