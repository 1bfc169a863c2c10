"""Text as ids: a tokenizer for engines that take and give text alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from posttrain.errors import DataError
from posttrain.types import Message, Text

END = 0x110000
"""The id that ends a completion; it has no text."""

EMPTY = 0x110001
"""The id of a token without text, such as a part of a character."""

_MAX_BYTES = 512
_ROLE, _CONTENT, _NEXT = "\ufdd0", "\ufdd1", "\ufdd2"  # noncharacters: no text holds them


def piece_id(text: str) -> int:
    """The id of a piece of text, by which `piece_text` knows it.

    A single character is its code point. A longer piece is the number that its UTF-8 bytes are,
    with a byte 255 before them, so that the id of a server's token needs no table and stays valid
    in a file.

    >>> piece_id("a"), piece_text(piece_id("abc"))
    (97, 'abc')
    """
    if len(text) == 1:
        return ord(text)
    return int.from_bytes(b"\xff" + text.encode(), "big") if text else EMPTY


def piece_text(number: int) -> str:
    """The text of an id.

    Raises:
        DataError: it is no id of `piece_id`.
    """
    if number in (END, EMPTY):
        return ""
    if 0 <= number < END:
        return chr(number)
    content = number.to_bytes((number.bit_length() + 7) // 8, "big") if number > 0 else b""
    if content[:1] != b"\xff":
        raise DataError(f"id {number} is neither a code point nor a piece of text")
    return content[1:].decode("utf-8", "replace")


def split_pieces(text: str, number: int) -> list[int]:
    """Ids of a text, as near to a number of pieces of equal length as it goes.

    A text with fewer characters is filled up with ids that have no text.
    """
    number = max(number, -(-len(text) * 4 // _MAX_BYTES), bool(text))
    edges = [len(text) * i // number for i in range(number + 1)] if number else [0]
    return [piece_id(text[a:b]) for a, b in itertools.pairwise(edges)]


class CharacterTokenizer:
    """Encodes text as its code points, and writes roles as markers that `parse` reads.

    What a server wrote may hold pieces of several characters (`piece_id`), one for each of its
    tokens, so that counts of ids are counts of tokens there.
    """

    is_fast = False
    chat_template = "roles as markers"
    bos_token_id = None
    eos_token_id = END
    all_special_ids = (END, EMPTY)
    special_tokens_map: ClassVar[dict[str, str]] = {}

    def __len__(self) -> int:
        return END + 2

    def __call__(self, text: str | Sequence[str], **options: Any) -> dict[str, Any]:
        """{"input_ids": ids of the text, or of each of several}."""
        if isinstance(text, str):
            return {"input_ids": self.encode(text)}
        return {"input_ids": [self.encode(t) for t in text]}

    def encode(self, text: str, **options: Any) -> list[int]:
        """Code points."""
        return [ord(character) for character in text]

    def decode(self, ids: Iterable[int], **options: Any) -> str:
        """The text of ids."""
        return "".join(map(piece_text, ids))

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tools: Any = None,
        add_generation_prompt: bool = False,
        **options: Any,
    ) -> str:
        """Messages with markers between roles and contents.

        Raises:
            DataError: a content is no text, or there are tools.
        """
        if tools:
            raise DataError("tools cannot be given to an endpoint by a search; leave them out")
        parts = []
        for message in messages:
            content = message.get("content")
            if not isinstance(content, str) or any(c in content for c in (_ROLE, _CONTENT, _NEXT)):
                raise DataError(
                    f"a message of {message.get('role')!r} has no plain text as its content: "
                    f"{str(content)[:80]!r}"
                )
            parts.append(f"{_ROLE}{message['role']}{_CONTENT}{content}{_NEXT}")
        end = f"{_ROLE}assistant{_CONTENT}" if add_generation_prompt else ""
        return "".join(parts) + end

    def parse(self, ids: Iterable[int]) -> Text:
        """Text, or the messages of a rendered conversation. A last assistant message that has
        begun holds what has been written so far.
        """
        text = self.decode(ids)
        if not text.startswith(_ROLE):
            return text
        messages: list[Message] = []
        for part in text[1:].split(_ROLE):
            role, _, content = part.partition(_CONTENT)
            messages.append({"role": role, "content": content.removesuffix(_NEXT)})
        return messages
