"""From text and chat messages to token ids and back.

`conversations` marks the turns of a conversation that are trained.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from posttrain.data.forest import TokenSequence
from posttrain.data.template_limits import MEMORY, SECONDS, TemplateTimeout, bounded_rendering
from posttrain.data.text_files import MAX_LINE
from posttrain.errors import DataError, TemplateError
from posttrain.types import Message, Sample, Text

TrainOn = Literal["auto", "completion", "all_assistant", "last", "everything"]

PART_CHARACTERS = 1 << 18
"""Characters that are tokenised at a time: the tokenizer holds some hundred bytes for each."""

MARGIN = 64
"""Characters on either side that a part of a long text is tokenised with."""


def template_fingerprint(tokenizer: Any) -> str:
    """A short hash of template, special tokens and vocabulary size, which decide the ids."""
    if tokenizer is None:
        return "none"
    parts = [
        str(tokenizer.chat_template),
        str(sorted(tokenizer.special_tokens_map.items())),
        str(len(tokenizer)),
    ]
    return hashlib.blake2b("\x00".join(parts).encode(), digest_size=6).hexdigest()


def template_facts(tokenizer: Any) -> list[tuple[str, str]]:
    """What a check shows of the chat template; nothing where there is none."""
    if tokenizer is None or not tokenizer.chat_template:
        return []
    return [("chat template", f"fingerprint {template_fingerprint(tokenizer)}")]


def bos_id(tokenizer: Any) -> int | None:
    """The id that the tokenizer itself puts before plain text, or None where it puts none."""
    with_special = tokenizer("a", add_special_tokens=True)["input_ids"]
    bos = tokenizer.bos_token_id
    return bos if bos is not None and with_special and with_special[0] == bos else None


class Tokenized(NamedTuple):
    """Ids of many plain texts, tokenised together, which is several times as fast.

    Attributes:
        ids: without special tokens, by text.
        bos: the BOS that begins a sequence, or None.
    """

    ids: dict[str, list[int]]
    bos: int | None

    @classmethod
    def of(cls, tokenizer: Any, texts: Iterable[str]) -> Tokenized:
        """Tokenise each text once, without special tokens."""
        distinct = list(dict.fromkeys(texts))
        long = {
            text: long_text_ids(tokenizer, text)
            for text in distinct
            if len(text) > 2 * PART_CHARACTERS
        }
        distinct = [text for text in distinct if text not in long]
        ids = dict(zip(distinct, _fast_ids(tokenizer, distinct), strict=True))
        return cls({**ids, **long}, bos_id(tokenizer))


def long_text_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a long text without special tokens, tokenised part by part in bounded memory."""
    if not tokenizer.is_fast:  # only a fast tokenizer says where a token stands in the text
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids: list[int] = []
    start = 0
    while start < len(text):
        rest = text[start : start + PART_CHARACTERS + MARGIN]
        end = (
            safe_end(tokenizer, rest, PART_CHARACTERS)
            if len(rest) == PART_CHARACTERS + MARGIN
            else len(rest)
        )
        after = text[start + end : start + end + MARGIN]
        ids += part_ids(tokenizer, text[max(start - MARGIN, 0) : start], rest[:end], after).tolist()
        start += end
    return ids


def safe_end(tokenizer: Any, text: str, near: int) -> int:
    """Where to end a part of a longer text, at or before `near`: between two tokens, if possible.

    White space after a word comes first: tokens do not cross it in any usual tokenizer, so the ids
    of the parts are those of the whole. Without white space it is another place between two tokens.
    """
    places = range(min(near, len(text)), max(near - 4096, 0), -1)
    spaces = (
        i for i in places if i < len(text) and text[i].isspace() and not text[i - 1].isspace()
    )
    for end in itertools.chain(itertools.islice(spaces, 16), places[:16]):
        window = text[max(end - MARGIN, 0) : end + MARGIN]
        offsets = _offsets(tokenizer, window)[1]
        place = min(end, MARGIN)
        if not ((offsets[:, 0] < place) & (place < offsets[:, 1])).any():
            return end
    return near


def part_ids(tokenizer: Any, before: str, text: str, after: str) -> np.ndarray:
    """int64, ids of a text as it is tokenised between two others. Needs a fast tokenizer.

    The tokens of the other two are counted in the surroundings of the text's ends.
    """
    start, stop = min(MARGIN, len(text)), max(len(text) - MARGIN, 0)
    num_before = (
        int((_offsets(tokenizer, before + text[:start])[1][:, 0] < len(before)).sum())
        if before
        else 0
    )
    behind = text[stop:]
    num_after = (
        int((_offsets(tokenizer, behind + after)[1][:, 0] >= len(behind)).sum()) if after else 0
    )
    ids = _fast_ids(tokenizer, [before + text + after])[0]
    return np.array(ids[num_before : len(ids) - num_after], dtype=np.int64)


def _offsets(tokenizer: Any, text: str) -> tuple[np.ndarray, np.ndarray]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    return np.array(encoded["input_ids"], dtype=np.int64), offsets


def _fast_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Ids of texts without special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.truncation is None and backend.padding is None:
        # The library's own wrapper spends as long on masks and offsets, which nobody asks for here.
        return [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else []


def text_ids(
    tokenizer: Any, text: str, *, start: bool, cached: Tokenized | None = None
) -> list[int]:
    """Ids of plain text. start: it begins a sequence, with BOS once if the tokenizer uses one."""
    cached = cached or Tokenized.of(tokenizer, [text])
    ids = cached.ids[text]
    if start and cached.bos is not None and ids[:1] != [cached.bos]:
        return [cached.bos, *ids]
    return list(ids)


def as_messages(prompt: Text, system: str | None) -> Text:
    """The prompt with its system message; before plain text, with a blank line between them."""
    if system is None:
        return prompt
    if isinstance(prompt, str):
        return f"{system}\n\n{prompt}"
    return (
        prompt
        if prompt and prompt[0]["role"] == "system"
        else [{"role": "system", "content": system}, *prompt]
    )


def encode_prompt(
    tokenizer: Any, prompt: Text, *, system: str | None = None, tools: list[Any] | None = None
) -> list[int]:
    """Ids of a prompt that a model continues: text as it is, messages with the template's
    generation prompt.

    Raises:
        TemplateError: the prompt is messages and the tokenizer has no chat template.
        DataError: the prompt has no tokens.
    """
    prompt = as_messages(prompt, system)
    if isinstance(prompt, str):
        ids = text_ids(tokenizer, prompt, start=True)
    else:
        rendered = render(tokenizer, prompt, tools=tools, generation=True)
        ids = list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    if not ids:
        raise DataError(
            "a prompt has no tokens: it is empty and the tokenizer puts no BOS before it"
        )
    return ids


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    tools: list[Any] | None = None,
    generation: bool = False,
) -> str:
    """A conversation as the template writes it.

    Raises:
        TemplateError: there is no template, or it refuses the conversation; quotes its words.
    """
    if not tokenizer.chat_template:
        raise TemplateError(
            "the rows are chat messages but the tokenizer has no chat template. Set "
            "model.chat_template to a Jinja file, take the tokenizer of an instruction-tuned model "
            "(model.tokenizer), or use plain prompt and completion text"
        )
    try:
        with bounded_rendering():
            text = tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=generation
            )
    except (TemplateTimeout, MemoryError) as error:
        bound = (
            f"{SECONDS:g} seconds" if isinstance(error, TemplateTimeout) else f"{MEMORY >> 30} GiB"
        )
        raise TemplateError(
            f"the chat template takes more than {bound} to render one conversation; set "
            "model.chat_template to another"
        ) from None
    except Exception as error:  # Jinja raises its own kinds, and templates raise what they like
        raise TemplateError(
            f"the chat template refuses the conversation: {str(error)[:500]}"
        ) from error
    if len(text) > MAX_LINE:
        raise TemplateError(
            f"the chat template writes {len(text):,} characters for one conversation; at most "
            f"{MAX_LINE:,} are allowed. Set model.chat_template to another"
        )
    return str(text)


def encode_text(
    tokenizer: Any, text: str, *, row: str = "", cached: Tokenized | None = None
) -> TokenSequence:
    """Plain text, of which every token but the first is trained, EOS included."""
    ids = text_ids(tokenizer, text, start=True, cached=cached)
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids.append(tokenizer.eos_token_id)
    return TokenSequence(np.array(ids), np.arange(len(ids)) > 0, row=row)


def encode_pair(
    tokenizer: Any,
    prompt: str,
    completion: str,
    *,
    everything: bool = False,
    row: str = "",
    cached: Tokenized | None = None,
) -> TokenSequence:
    """A prompt and a completion of plain text; the completion and its EOS are trained.

    The two are tokenised apart, as they are when the model samples, so that no token crosses the
    border. everything: the prompt is trained too.
    """
    cached = cached or Tokenized.of(tokenizer, [prompt, completion])
    before = text_ids(tokenizer, prompt, start=True, cached=cached)
    after = text_ids(tokenizer, completion, start=False, cached=cached)
    eos = tokenizer.eos_token_id  # read once: the tokenizer searches for it at every access
    if eos is not None and after[-1:] != [eos]:
        after.append(eos)
    ids = np.array([*before, *after])
    mask = np.arange(len(ids)) >= (0 if everything else len(before))
    mask[0] = False
    return TokenSequence(ids, mask, row=row)


def encode_step(
    tokenizer: Any, prompt: Text, prefix: str, step: str, *, row: str = ""
) -> TokenSequence:
    """One step of a solution, trained, after a prompt and the steps before it. It has no EOS,
    because the solution may go on.
    """
    before = [
        *encode_prompt(tokenizer, prompt),
        *(text_ids(tokenizer, prefix, start=False) if prefix else []),
    ]
    ids = np.array([*before, *text_ids(tokenizer, step, start=False)])
    return TokenSequence(ids, np.arange(len(ids)) >= len(before), row=row)


def decode_completion(tokenizer: Any, sample: Sample) -> str:
    """The text of a sample, without special tokens and without the stop string that ended it."""
    text = str(tokenizer.decode(sample.ids, skip_special_tokens=True))
    if sample.stop_string is not None and sample.stop_string in text:
        text = text[: text.index(sample.stop_string)]
    return text
