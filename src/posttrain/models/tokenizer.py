"""Tokenizers of model folders and hub names."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from posttrain.errors import ModelError
from posttrain.models.model_files import first_line


def load_tokenizer(
    path: str | Path,
    *,
    chat_template: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name; `chat_template` (Jinja, or a file that holds it)
    replaces its template.

    Raises:
        ModelError: there is none, or the template file is missing.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} has no tokenizer that can be loaded ({first_line(error)}); name one as "
            "`tokenizer`"
        ) from error
    if chat_template is not None:
        if "{" not in chat_template:
            if not Path(chat_template).is_file():
                raise ModelError(
                    f"chat_template {chat_template!r} is neither a file nor a Jinja template"
                )
            chat_template = Path(chat_template).read_text(encoding="utf-8")
        tokenizer.chat_template = chat_template
    return tokenizer


def tokenizer_source(path: str, base: str, tokenizer: str | None) -> str:
    """Adapters saved with a tokenizer bring their own; else the base model's."""
    source = path if (Path(path) / "tokenizer_config.json").is_file() else base
    return tokenizer or source


def separate_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the padding token differ from EOS, if some special token does.

    A sequence classification model of transformers reads its score at the last token that is not
    padding: where EOS served as padding too, it would read a completion before its end.
    """
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        special = (tokenizer.unk_token, tokenizer.bos_token, *tokenizer.all_special_tokens)
        others = [t for t in special if t is not None and t != tokenizer.eos_token]
        tokenizer.pad_token = others[0] if others else tokenizer.eos_token
