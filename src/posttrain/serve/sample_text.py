"""From token ids to text that can be sent: whole characters, and nothing of a stop string."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Decoder:
    """Text of token ids that come one after another.

    Its text is the same however the ids are portioned, so that a stream's deltas joined are the
    text of a whole answer. An unfinished character is held back until its last byte is there.

    Tokens are decoded in a window that begins at the last whole character, because the text of a
    token depends on the one before it (spaces of SentencePiece, bytes of a character).
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # of the window
        self._end = 0  # of the tokens whose text is out

    def add(self, ids: Sequence[int]) -> str:
        """The text that these ids complete."""
        return "".join(self._add(i) for i in ids)

    def end(self) -> str:
        """What was held back; a broken character is U+FFFD."""
        text = self._text(self._start, len(self._ids))[len(self._text(self._start, self._end)) :]
        self._start = self._end = len(self._ids)
        return text

    def _add(self, token: int) -> str:
        self._ids.append(token)
        text = self._text(self._start, len(self._ids))
        if text.endswith(_REPLACEMENT):
            return ""
        before = self._text(self._start, self._end)
        if len(text) <= len(before):
            return ""
        self._start, self._end = self._end, len(self._ids)
        return text[len(before) :]

    def _text(self, start: int, end: int) -> str:
        if start == end:
            return ""
        return str(
            self._tokenizer.decode(
                self._ids[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


class SampleText:
    """The text of one sample up to its stop string, in parts that may be sent at once.

    Args:
        stop: stop strings of the request.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._decoder = Decoder(tokenizer)
        self._stop = tuple(stop)
        self._held = ""  # text that may be the beginning of a stop string
        self._stopped = False
        self.num_tokens = 0

    def add(self, ids: Sequence[int]) -> str:
        """The text that is sure with these new ids."""
        self.num_tokens += len(ids)
        return self._release(self._decoder.add(ids), last=False)

    def end(self) -> str:
        """The rest of the text, when the sample has ended."""
        return self._release(self._decoder.end(), last=True)

    def _release(self, text: str, *, last: bool) -> str:
        if self._stopped:
            return ""
        text = self._held + text
        places = [place for s in self._stop if (place := text.find(s)) >= 0]
        if places:
            self._stopped, self._held = True, ""
            return text[: min(places)]
        held = 0 if last else max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text with which the stop string begins."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def text_of(tokenizer: Any, ids: Sequence[int], stop: Sequence[str] = ()) -> str:
    """The whole text of a sample."""
    text_so_far = SampleText(tokenizer, stop)
    return text_so_far.add(ids) + text_so_far.end()


def token_bytes(tokenizer: Any, token: int) -> bytes | None:
    """The bytes of a token inside a text; None where the tokenizer does not say."""
    # Behind itself, because many tokenizers drop the space that a text begins with.
    alone, twice = (
        str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        for ids in ([token], [token, token])
    )
    text = twice[len(alone) :] if twice.startswith(alone) else alone
    if _REPLACEMENT not in text:
        return text.encode("utf-8", "replace")
    name = tokenizer.convert_ids_to_tokens(token)
    if not isinstance(name, str):
        return None
    match = _BYTE.fullmatch(name)
    if match:
        return bytes([int(match[1], 16)])
    table = _byte_characters()
    return bytes(table[c] for c in name) if all(c in table for c in name) else None


def token_text(tokenizer: Any, token: int) -> str:
    """A token as log-probs name it: its text, or `bytes:\\xe2\\x80` for a part of a character."""
    content = token_bytes(tokenizer, token)
    if content is None:
        return f"token_id:{token}"
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


@functools.cache
def _byte_characters() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (Radford et al., 2019, GPT-2).

    Printable characters of Latin-1 stand for themselves; the 68 others follow from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return table | {chr(0x100 + i): byte for i, byte in enumerate(others)}
