from __future__ import annotations

import random
from typing import Any

import pytest

from posttrain.serve.sample_text import Decoder, SampleText, text_of, token_bytes, token_text

TEXTS = ["plain words", "naïve “quotes” 🙂🙂", "日本語のテキスト", "a\n\n b  c ", "👩‍👩‍👧 ok"]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tiny_tokenizer: Any) -> Any:
    """Bytes of a byte-level vocabulary; pieces with ▁ and bytes as <0xE2>, as Llama 2 has them."""
    if request.param == "bytes":
        return tiny_tokenizer
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁ok", "ab"]
    pieces += [chr(c) for c in range(33, 127)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    model.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    model.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("text", TEXTS)
def test_parts_join_to_the_text_and_hold_whole_characters(tokenizer: Any, text: str) -> None:
    ids = ids_of(tokenizer, text)
    decoder = Decoder(tokenizer)
    parts = [decoder.add([token]) for token in ids]
    parts.append(decoder.end())
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)
    assert sum(map(bool, parts)) > 1


def test_text_does_not_depend_on_how_ids_are_portioned(tokenizer: Any) -> None:
    generator = random.Random(3)
    for _ in range(50):
        # Random bytes: mostly broken characters.
        ids = [generator.randrange(3, 262) for _ in range(generator.randrange(1, 40))]
        whole = Decoder(tokenizer)
        expected = whole.add(ids) + whole.end()
        portions, rest = Decoder(tokenizer), ids
        text = ""
        while rest:
            count = generator.randrange(1, 5)
            text += portions.add(rest[:count])
            rest = rest[count:]
        assert text + portions.end() == expected


def test_a_stop_string_is_never_shown_in_part(tokenizer: Any) -> None:
    stops = ("END", "ENOUGH", "\n\n")
    for text, expected in (
        ("so E EN the END more", "so E EN the "),
        ("xENENEND", "xENEN"),
        ("aENOUGH", "a"),
        ("line\nnext\n\nEND", "line\nnext"),
        ("never ENDS", "never "),
        ("ends with EN", "ends with EN"),
        ("", ""),
    ):
        stream, shown = SampleText(tokenizer, stops), ""
        for token in ids_of(tokenizer, text) if text else []:
            shown += stream.add([token])
            assert expected.startswith(shown)
        assert shown + stream.end() == expected
        assert text_of(tokenizer, ids_of(tokenizer, text) if text else [], stops) == expected


def test_special_tokens_are_not_text(tiny_tokenizer: Any) -> None:
    ids = [1, *ids_of(tiny_tokenizer, "a"), 4, *ids_of(tiny_tokenizer, "b"), 2]
    assert text_of(tiny_tokenizer, ids) == "ab"


def test_bytes_of_tokens_join_to_those_of_the_text(tokenizer: Any) -> None:
    for text in TEXTS:
        content = [token_bytes(tokenizer, token) for token in ids_of(tokenizer, text)]
        assert b"".join(c or b"" for c in content).decode().lstrip(" ") == text.lstrip(" ")


def test_names_of_tokens_differ(tokenizer: Any) -> None:
    names = [token_text(tokenizer, token) for token in range(len(tokenizer))]
    # A character and its byte have one name.
    assert len(set(names)) >= 256
    assert sum(name.startswith("bytes:") for name in set(names)) == 128
