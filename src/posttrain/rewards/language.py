"""Rewards for the language of a completion, and against repetition."""

from __future__ import annotations

import re

from posttrain.data.languages import LANGUAGES, language_of, language_shares
from posttrain.errors import ConfigError, nearest
from posttrain.registry import rewards
from posttrain.types import plain_text

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?(?:\$\$|\Z)|\$[^$\n]*\$", re.DOTALL)


def _text(completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _text_of_prompt(prompt) -> str:
    return prompt if isinstance(prompt, str) else plain_text(prompt[-1]["content"])


@rewards.register
def language_consistency(prompts, completions, *, language: str | None = None) -> list[float]:
    """Share of a completion's letters that belong to one language (DeepSeek-R1, arXiv 2501.12948,
    section 2.3.2, whose share is of words).

    Letters of another script count against it; those of the same script count by the language whose
    commonest words the text has most of. Code between backquotes and formulas between dollar signs
    are left out. A completion without letters, or whose language is not known, gives 0.

    language: an ISO 639-1 code, such as en; None is the language of the prompt.
    """
    if language is not None and language not in LANGUAGES:
        raise ConfigError(
            f"rewards: language_consistency: language {language!r}: {nearest(language, LANGUAGES)}"
        )
    values = []
    for prompt, completion in zip(prompts, completions, strict=True):
        target = language or language_of(_text_of_prompt(prompt))
        shares = language_shares(_CODE.sub(" ", _text(completion)))
        values.append(shares.get(target, 0.0) if target else 0.0)
    return values


@rewards.register
def repetition(completions, *, num_words: int = 3, max_penalty: float = 1.0) -> list[float]:
    """A penalty on repeated n-grams of words (Yeo et al., arXiv 2502.03373, appendix).

        -max_penalty (1 - distinct n-grams / n-grams);   0 for fewer than num_words words

    num_words: n. max_penalty: of a completion that is one n-gram over and over.
    """
    if num_words < 1 or max_penalty < 0:
        raise ConfigError(
            f"rewards: repetition: num_words {num_words} must be at least 1 and max_penalty "
            f"{max_penalty} at least 0"
        )
    values = []
    for text in map(_text, completions):
        words = text.lower().split()
        total = len(words) - num_words + 1
        if total < 1:
            values.append(0.0)
            continue
        distinct = len({tuple(words[i : i + num_words]) for i in range(total)})
        values.append(-max_penalty * (1 - distinct / total))
    return values
