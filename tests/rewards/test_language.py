"""Language consistency and repetition."""

from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.rewards.language import language_consistency, repetition


def test_the_language_is_that_of_the_prompt_or_named() -> None:
    english = "It is true that the sum of these is 7."
    german = "Das ist die Summe der beiden und nicht mehr."
    prompts = ["What is the sum of 3 and 4?", "Was ist die Summe von 3 und 4?"]
    assert language_consistency(prompts, [english, german]) == [1, 1]
    assert language_consistency(prompts, [german, english]) == [0, 0]
    assert language_consistency(prompts, [english, english], language="en") == [1, 1]
    chat = [{"role": "user", "content": prompts[0]}]
    assert language_consistency([chat], [[{"role": "assistant", "content": english}]]) == [1]


def test_letters_of_another_script_count_against_it() -> None:
    (value,) = language_consistency(["the sum of it"], ["so the sum is 我们在这里"])
    assert value == pytest.approx(10 / 15)
    code = "so the sum is\n```python\nимя = 3\n```\nand `имя` is $имя$"
    assert language_consistency(["the sum of it"], [code]) == [1]
    assert language_consistency(["the sum", ""], ["12 = 12", "the sum"]) == [0, 0]
    with pytest.raises(ConfigError):
        language_consistency(["a"], ["b"], language="klingon")


def test_repetition_is_the_share_of_repeated_n_grams() -> None:
    texts = ["a b c d e", "a b c a b c", "a a a a a a", "a b", ""]
    assert repetition(texts) == pytest.approx([0, -1 / 4, -3 / 4, 0, 0])
    assert repetition(texts, num_words=1, max_penalty=2.0)[2] == pytest.approx(-2 * 5 / 6)
    with pytest.raises(ConfigError):
        repetition(texts, num_words=0)
