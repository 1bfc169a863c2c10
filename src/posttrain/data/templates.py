"""Where chat text meets tokens, and nowhere else.

Which tokens are trained is decided by position in the rendered conversation, never by token id: the
conversation is rendered up to and after each trained turn, the renderings are checked to be
prefixes of one another, and the characters in between are the turn. So any Jinja template works,
whatever its end-of-turn or padding tokens are.
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
    """A short hash of everything that turns conversations into ids: template, special tokens,
    size of the vocabulary.
    """
    if tokenizer is None:
        return "none"
    parts = [
        str(tokenizer.chat_template),
        str(sorted(tokenizer.special_tokens_map.items())),
        str(len(tokenizer)),
    ]
    return hashlib.blake2b("\x00".join(parts).encode(), digest_size=6).hexdigest()


def bos_id(tokenizer: Any) -> int | None:
    """The id that the tokenizer itself puts before plain text, or None where it puts none."""
    with_special = tokenizer("a", add_special_tokens=True)["input_ids"]
    bos = tokenizer.bos_token_id
    return bos if bos is not None and with_special and with_special[0] == bos else None


class Tokenized(NamedTuple):
    """Ids of many plain texts, made at once, which is several times as fast as one by one; and
    the BOS to put first.
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
        found = _fast_ids(tokenizer, distinct)
        return cls({**dict(zip(distinct, found, strict=True)), **long}, bos_id(tokenizer))


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
    """Where to end a part of a longer text, at or before `near`: a border of tokens, if one is
    close.

    Best is white space after a word, which tokens do not reach over in any usual tokenizer: the ids
    of the parts are then those of the whole. Where there is none, another border of tokens is
    taken.
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
    tokenizer: Any, text: str, *, start: bool, known: Tokenized | None = None
) -> list[int]:
    """Ids of plain text; at the start of a sequence with BOS once, if the tokenizer uses one."""
    known = known or Tokenized.of(tokenizer, [text])
    ids = known.ids[text]
    return (
        [known.bos, *ids]
        if start and known.bos is not None and ids[:1] != [known.bos]
        else list(ids)
    )


def as_messages(prompt: Text, system: str | None) -> Text:
    """The prompt with its system message: as messages, or in front of plain text where there is
    no template.
    """
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
    """Ids of a prompt, ready to be continued: messages with the template's generation prompt, text
    as it is.

    Raises:
        TemplateError: messages, but the tokenizer has no chat template. DataError: the prompt has
        no tokens.
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
        TemplateError: there is no template, or it refuses the conversation (names its own words).
    """
    if not tokenizer.chat_template:
        raise TemplateError(
            "the rows are chat messages but the tokenizer has no chat template. Set "
            "model.chat_template to a Jinja file, "
            "take the tokenizer of an instruction-tuned model (model.tokenizer), or use plain "
            "prompt and completion text"
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
            f"{MAX_LINE:,} may be"
        )
    return str(text)


def encode_text(
    tokenizer: Any, text: str, *, row: str = "", known: Tokenized | None = None
) -> TokenSequence:
    """Plain text, all of it trained, EOS at its end included."""
    ids = text_ids(tokenizer, text, start=True, known=known)
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
    known: Tokenized | None = None,
) -> TokenSequence:
    """A prompt and a completion of plain text; the completion and the EOS behind it are trained.

    The two are tokenised apart, as they are when the model is asked, so that no token reaches over
    the border.
    """
    known = known or Tokenized.of(tokenizer, [prompt, completion])
    before = text_ids(tokenizer, prompt, start=True, known=known)
    after = text_ids(tokenizer, completion, start=False, known=known)
    eos = tokenizer.eos_token_id  # which the tokenizer looks up anew whenever it is asked
    if eos is not None and after[-1:] != [eos]:
        after.append(eos)
    ids = np.array([*before, *after])
    mask = np.arange(len(ids)) >= (0 if everything else len(before))
    mask[0] = False
    return TokenSequence(ids, mask, row=row)


def encode_step(
    tokenizer: Any, prompt: Text, prefix: str, step: str, *, row: str = ""
) -> TokenSequence:
    """One step of a solution, trained, after a prompt and the steps before it; no EOS, as the
    solution may go on.
    """
    before = [
        *encode_prompt(tokenizer, prompt),
        *(text_ids(tokenizer, prefix, start=False) if prefix else []),
    ]
    ids = np.array([*before, *text_ids(tokenizer, step, start=False)])
    return TokenSequence(ids, np.arange(len(ids)) >= len(before), row=row)


def encode_messages(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    tools: list[Any] | None = None,
    train_on: TrainOn = "all_assistant",
    row: str = "",
) -> TokenSequence:
    """A conversation, with the turns that are trained marked.

    A message may say `train: false` to be left out, or `weight: 0.5` to count less (stream
    "weights").

    Args:
        train_on: "all_assistant", "last" (the last assistant turn), or "everything".
    Raises:
        TemplateError: the template rewrites earlier turns, so that a turn has no place of its own;
        shows where.
    """
    plain = [{k: v for k, v in m.items() if k not in ("train", "weight")} for m in messages]
    full = render(tokenizer, plain, tools=tools)
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    turns = {"everything": [], "last": turns[-1:]}.get(train_on, turns)
    turns = [
        i for i in turns if messages[i].get("train") is not False and messages[i].get("weight") != 0
    ]
    spans = [_turn_span(tokenizer, plain, i, full, tools, row) for i in turns]
    ids, offsets = _with_offsets(tokenizer, full, [first for first, _ in spans])
    if not ids:
        raise TemplateError(
            f"row {row}: the chat template writes nothing for the conversation; set "
            "model.chat_template to another"
        )
    mask = np.full(len(ids), train_on == "everything")
    weights = np.ones(len(ids), dtype=np.float32)
    for i, (first, stop) in zip(turns, spans, strict=True):
        if not isinstance(weight := messages[i].get("weight", 1.0), int | float) or weight < 0:
            raise DataError(
                f"row {row}: message {i} has the weight {weight!r}; it says how much its tokens "
                "count, 0 or above"
            )
        inside = (
            (offsets[:, 0] >= first) & (offsets[:, 1] <= stop) & (offsets[:, 1] > offsets[:, 0])
        )
        mask |= inside
        weights[inside] = float(weight)
    mask[0] = False
    weighted = any("weight" in m for m in messages)
    return TokenSequence(np.array(ids), mask, {"weights": weights} if weighted else {}, row=row)


def _turn_span(
    tokenizer: Any, messages: list[Message], i: int, full: str, tools: list[Any] | None, row: str
) -> tuple[int, int]:
    """Characters [first, stop) of the rendered conversation that turn i wrote, its terminator
    included.
    """
    before = (
        render(tokenizer, messages[:i], tools=tools, generation=True)
        if i
        else _opening(tokenizer, messages, tools)
    )
    through = render(tokenizer, messages[: i + 1], tools=tools)
    _check_prefix(
        before,
        through,
        f"the conversation before turn {i}",
        f"the conversation through turn {i}",
        row,
    )
    _check_prefix(
        through, full, f"the conversation through turn {i}", "the whole conversation", row
    )
    # White space that the template puts after its terminator belongs to nobody: the model has
    # stopped before it.
    written = through[len(before) :]
    _check_calls(messages[i], written, f"row {row}: turn {i}")
    kept = written.rstrip() if _ends_in_terminator(tokenizer, written.rstrip()) else written
    return len(before), len(before) + len(kept)


def _opening(tokenizer: Any, messages: list[Message], tools: list[Any] | None) -> str:
    """What stands before an assistant turn that opens the conversation."""
    through = render(tokenizer, messages[:1], tools=tools)
    content = messages[0].get("content")
    place = through.find(content) if isinstance(content, str) and content else 0
    return through[: max(place, 0)]


def _ends_in_terminator(tokenizer: Any, text: str) -> bool:
    return any(text.endswith(str(token)) for token in tokenizer.all_special_tokens)


def _check_calls(message: Message, written: str, where: str) -> None:
    names = [
        str(call.get("function", call).get("name")) for call in message.get("tool_calls") or []
    ]
    lost = [name for name in names if name not in written]
    if lost:
        raise TemplateError(
            f"{where} calls the tool {lost[0]!r}, but the chat template writes the turn without "
            f"it: {written!r:.80}. "
            "Set model.chat_template to a template that writes tool calls"
        )


def _check_prefix(shorter: str, longer: str, what: str, of: str, row: str) -> None:
    if longer.startswith(shorter):
        return
    place = next(
        (k for k, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b),
        min(len(shorter), len(longer)),
    )
    window = slice(max(place - 30, 0), place + 40)
    raise TemplateError(
        f"row {row}: this chat template rewrites earlier turns, so what is trained cannot be told "
        "by position. "
        f"{what} differs from {of} at character {place}:\n  {shorter[window]!r}\n  "
        f"{longer[window]!r}\n"
        "Train on the last turn alone (data.train_on: last), or set model.chat_template to a "
        "template that only appends"
    )


def _with_offsets(
    tokenizer: Any, text: str, borders: Sequence[int]
) -> tuple[list[int], np.ndarray]:
    """Ids and the characters [first, stop) of each.

    Where a token would reach over a border (the start of a trained turn), the text is tokenised
    apart there, as it is when the model is asked to continue the prompt.
    """
    if not tokenizer.is_fast:
        raise TemplateError(
            "chat messages need a fast tokenizer, which tells where each token stands in the text"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = (
        list(encoded["input_ids"]),
        np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2),
    )
    crossed = next((b for b in borders if ((offsets[:, 0] < b) & (b < offsets[:, 1])).any()), None)
    if crossed is None:
        return ids, offsets
    before, before_offsets = _with_offsets(
        tokenizer, text[:crossed], [b for b in borders if b < crossed]
    )
    after, after_offsets = _with_offsets(
        tokenizer, text[crossed:], [b - crossed for b in borders if b > crossed]
    )
    return before + after, np.concatenate([before_offsets, after_offsets + crossed])


def decode_completion(tokenizer: Any, sample: Sample) -> str:
    """The text of a sample, without special tokens and without the stop string that ended it."""
    text = str(tokenizer.decode(sample.ids, skip_special_tokens=True))
    if sample.stop_string is not None and sample.stop_string in text:
        text = text[: text.index(sample.stop_string)]
    return text
