from __future__ import annotations

import gzip
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.data import corpus, templates
from posttrain.data.corpus import encode_documents, read_parts, text_files
from posttrain.data.encoded import Encoded, Limits
from posttrain.data.forest import TokenSequence
from posttrain.data.formats import RowFormat
from posttrain.data.rows import load_rows
from posttrain.data.templates import encode_text, long_text_ids
from posttrain.errors import DataError

PROSE = "".join(
    f"Sentence {i}, with several words; and a number: {i * 37}.\n" + "\n" * (i % 5 == 0)
    for i in range(400)
)


def documents(path: Path, document: Any) -> list[str]:
    texts: list[str] = []
    for part in read_parts(path, document):
        texts = [*texts, part.text] if part.first else [*texts[:-1], texts[-1] + part.text]
    return texts


def encoded_of(
    path: Path, tokenizer: Any, document: Any = "paragraph", limit: int | None = None, **limits: Any
) -> Encoded:
    encoded = Encoded([], RowFormat("text", ""), text=True)
    encode_documents(encoded, read_parts(path, document), tokenizer, Limits(**limits), limit=limit)
    return encoded


def by_document(encoded: Encoded) -> dict[str, list[TokenSequence]]:
    rows = itertools.groupby(encoded.sequences, key=lambda s: s.row.split(" part ")[0])
    return {row: list(parts) for row, parts in rows}


def joined(parts: list[TokenSequence]) -> list[int]:
    """The document that parts are of: each begins with the last token of the one before."""
    assert all(a.ids[-1] == b.ids[0] for a, b in itertools.pairwise(parts))
    return np.concatenate([parts[0].ids, *(p.ids[1:] for p in parts[1:])]).tolist()


@pytest.mark.parametrize("size", [7, 64, 1 << 18])
@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "a\n  \nb\r\nc\n\n\n\nd",
        "\n\n",
        "one line without an end",
        "é" * 50 + "\n\nü",
        "a\n\nb\n\n\n",
    ],
)
def test_paragraphs_are_the_rows_of_load_rows(
    tmp_path: Path, monkeypatch: Any, text: str, size: int
) -> None:
    monkeypatch.setattr(corpus, "PART_CHARACTERS", size)
    path = tmp_path / "a.txt"
    path.write_text(text, newline="")
    rows = [row["text"] for row in load_rows(path)] if text.strip() else []
    assert documents(path, "paragraph") == rows
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    assert documents(path, "line") == lines
    whole = text.replace("\r\n", "\n").rstrip("\n")
    assert documents(path, "file") == ([whole] if whole else [])


def test_files_that_are_plain_text(tmp_path: Path) -> None:
    for name in ("train.txt", "train.txt.gz", "other.txt"):
        (tmp_path / name).write_bytes(gzip.compress(b"a") if name.endswith("gz") else b"a")
    assert text_files(tmp_path / "other.txt", "train") == [tmp_path / "other.txt"]
    assert text_files(tmp_path, "train") == [tmp_path / "train.txt", tmp_path / "train.txt.gz"]
    assert documents(tmp_path / "train.txt.gz", "file") == ["a"]
    (tmp_path / "train.jsonl").write_text("{}")
    assert text_files(tmp_path, "train") == [] == text_files(tmp_path / "missing", "train")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="bad.txt is not UTF-8 text"):
        list(read_parts(tmp_path / "bad.txt", "file"))


@pytest.mark.parametrize("document", ["paragraph", "line", "file"])
@pytest.mark.parametrize("max_length", [8, 33, 10_000_000])
def test_every_token_is_a_target_once(
    tmp_path: Path, tiny_tokenizer: Any, document: Any, max_length: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(PROSE)
    encoded = encoded_of(path, tiny_tokenizer, document, max_length=max_length)
    texts = documents(path, document)
    whole = [encode_text(tiny_tokenizer, text) for text in texts]
    parts = by_document(encoded)
    assert [joined(p) for p in parts.values()] == [s.ids.tolist() for s in whole]
    assert encoded.num_rows == len(texts) and encoded.num_tokens == sum(len(s.ids) for s in whole)
    assert encoded.num_trained == encoded.num_tokens - encoded.num_rows
    assert encoded.split == sum(len(s.ids) > max_length for s in whole)
    assert int(encoded.lengths.max()) <= max_length and not encoded.lost_text()
    assert all(
        s.loss_mask.tolist() == [False, *[True] * (len(s.ids) - 1)] for s in encoded.sequences
    )


@pytest.mark.parametrize("size", [100, 500])
def test_long_documents_have_the_ids_of_the_whole(
    tmp_path: Path, monkeypatch: Any, tiny_tokenizer: Any, size: int
) -> None:
    for module in (corpus, templates):
        monkeypatch.setattr(module, "PART_CHARACTERS", size)
    path = tmp_path / "a.txt"
    text = PROSE.replace("\n\n", "\n")[:9000]
    path.write_text(text)
    (document,) = by_document(encoded_of(path, tiny_tokenizer, max_length=64)).values()
    expected = tiny_tokenizer(text.rstrip("\n"), add_special_tokens=False)["input_ids"]
    assert joined(document)[1:-1] == expected


def tokenizers_of_other_kinds() -> dict[str, Any]:
    """Small tokenizers whose tokens depend on what is beside them: words with a space before,
    with a mark, prefixed.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = {}
    for name in ("byte level", "metaspace", "prefixed"):
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        alphabet = []
        if name == "byte level":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
                add_prefix_space=False, use_regex=True
            )
            alphabet = pre_tokenizers.ByteLevel.alphabet()
        elif name == "metaspace":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        else:  # as Llama 2's: the whole text is one word
            tokenizer.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<unk>"], initial_alphabet=alphabet, max_token_length=8
        )
        tokenizer.train_from_iterator([PROSE[i : i + 60] for i in range(0, 6000, 60)], trainer)
        made[name] = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    return made


def test_parts_have_the_ids_of_the_whole_for_any_kind_of_tokenizer(monkeypatch: Any) -> None:
    text = PROSE[:12_000] + "x" * 3000 + "  \n\n\t  " + PROSE[:3000]
    for name, tokenizer in tokenizers_of_other_kinds().items():
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(set(expected)) > 100, name
        for size in (300, 1111):
            monkeypatch.setattr(templates, "PART_CHARACTERS", size)
            usual = [i for i, t in enumerate(expected) if tokenizer.decode([t]).strip("x ")]
            ids = long_text_ids(tokenizer, text)
            assert tokenizer.decode(ids) == tokenizer.decode(expected), name
            # A run of one letter has no border of words; everything else is as in the whole.
            assert [t for t in ids if tokenizer.decode([t]).strip("x ")] == [
                expected[i] for i in usual
            ], name


def test_documents_are_cut_or_dropped_only_as_asked(tmp_path: Path, tiny_tokenizer: Any) -> None:
    path = tmp_path / "a.txt"
    path.write_text("short\n\n" + "long " * 20 + "\n\nalso short")
    kept = encoded_of(path, tiny_tokenizer, max_length=16, truncation="keep_start")
    assert (kept.truncated, kept.tokens_cut) == (1, 20 * 5 + 2 - 16) and kept.lengths.tolist() == [
        7,
        16,
        12,
    ]
    dropped = encoded_of(path, tiny_tokenizer, max_length=16, truncation="drop")
    assert (dropped.dropped, dropped.tokens_dropped) == (1, 102) and dropped.lengths.tolist() == [
        7,
        12,
    ]
    with pytest.raises(
        DataError, match="row 1 has 102 tokens, data.max_length is 16 and data.truncation is error"
    ):
        encoded_of(path, tiny_tokenizer, max_length=16, truncation="error")
    first = encoded_of(path, tiny_tokenizer, limit=2, max_length=16)
    assert first.num_rows == 2 and len(by_document(first)) == 2


_MEASURE = """
import resource, sys
from pathlib import Path
from transformers import AutoTokenizer
from posttrain.data.corpus import encode_documents, read_parts
from posttrain.data.encoded import Encoded, Limits
from posttrain.data.formats import RowFormat
from posttrain.data.store import SequenceStore
from posttrain.sources.rows import DataSource, Singles
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
store = SequenceStore(Path(sys.argv[3]), memory_tokens=1 << 18)
encoded = Encoded(store, RowFormat("text", ""))
before = peak()
encode_documents(encoded, read_parts(Path(sys.argv[2]), "paragraph"), tokenizer, Limits(512))
source = DataSource(Singles(store), batch_size=64, seed=0)
steps = range(source.steps_per_epoch)
trained = sum(batch.num_targets for step in steps for batch in source.batches(step))
print(encoded.num_tokens, trained, store.on_disk, peak() - before)
"""


def test_memory_is_bounded_while_every_token_is_trained(tmp_path: Path, tiny_folder: Path) -> None:
    path = tmp_path / "big.txt"
    long, short = PROSE.replace("\n\n", "\n") * 80, PROSE * 20
    path.write_text(f"{long}\n{short}")
    command = [sys.executable, "-c", _MEASURE, str(tiny_folder), str(path), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    tokens, trained, on_disk, megabytes = result.stdout.split()
    num_documents = len(load_rows(path))
    # A byte is a token here. BOS and EOS come to each document; the line breaks around it are no
    # part of it.
    separators = 1 + short.count("\n\n") * 2 + 1
    assert (
        on_disk == "True"
        and int(tokens) == len(long) + len(short) + 1 - separators - 1 + 2 * num_documents
    )
    assert int(trained) == int(tokens) - num_documents
    # Tokenised as a whole, the long document alone would take a hundred bytes for each character,
    # 170 MB.
    assert len(long) > 1_700_000 and float(megabytes) < 90


def test_real_corpora_lose_nothing(shared: Path, stories: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories)
    for name, limit in (
        ("llamafactory_demo/wiki_demo.txt", None),
        ("text_corpora/wikitext2_test.txt.gz", 300),
    ):
        path = shared / "data" / name
        encoded = encoded_of(path, tokenizer, max_length=512, limit=limit)
        texts = itertools.islice(documents(path, "paragraph"), limit)
        expected = sum(len(tokenizer(t)["input_ids"]) + 1 for t in texts)
        assert encoded.num_tokens == expected and encoded.num_trained == expected - encoded.num_rows
        assert encoded.split > 0 and not encoded.lost_text()
