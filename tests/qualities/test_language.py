"""Languages by script and common words."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.data.languages import language_of
from posttrain.errors import ConfigError
from posttrain.qualities.language import language

SENTENCES = {
    "en": "The weather in the north was colder than we had thought, and it is not over yet.",
    "de": "Das Wetter im Norden war kälter, als wir gedacht hatten, und es ist nicht vorbei.",
    "fr": "Le temps dans le nord était plus froid que nous ne pensions, et ce n'est pas fini.",
    "es": "El tiempo en el norte era más frío de lo que pensábamos, pero no es para siempre.",
    "it": "Il tempo nel nord era più freddo di come si pensava, ma non è per sempre.",
    "pt": "O tempo no norte estava mais frio do que pensámos, mas não é para sempre.",
    "nl": "Het weer in het noorden was kouder dan we dachten, maar het is niet voor altijd.",
    "sv": "Vädret i norr var kallare än vi hade trott, men det är inte för alltid som det är så.",
    "pl": "Pogoda na północy była zimniejsza, ale to nie jest na zawsze i tak się nie da.",
    "tr": "Kuzeyde hava çok soğuk ve bu daha bir şey değil ama sonra iyi olan için güzel.",
    "ru": "Погода на севере была холоднее, чем мы думали, но это не так и не у всех.",
    "uk": "Погода на півночі була холодніша, але це не так і не для всіх, що є у нас.",
    "ja": "北の天気は思ったより寒かったですが、まだ終わっていません。",
    "ko": "북쪽의 날씨는 생각보다 추웠습니다.",
    "zh": "北方的天气比我们想象的要冷，但还没有结束。",
    "ar": "كان الطقس في الشمال أبرد مما كنا نظن.",
    "he": "מזג האוויר בצפון היה קר יותר.",
    "hi": "उत्तर में मौसम ठंडा था।",
    "th": "อากาศทางเหนือหนาวกว่าที่คิด",
    "el": "Ο καιρός στο βορρά ήταν πιο κρύος.",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_told(code: str) -> None:
    assert language_of(SENTENCES[code]) == code
    assert language([SENTENCES[code]], code=code)[0] > 0.5


def test_shares_of_two_languages_and_texts_without_any() -> None:
    both = f"{SENTENCES['en']} {SENTENCES['zh']}"
    assert 0.1 < language([both], code="zh")[0] < 0.5
    assert np.isnan(language(["3 + 4 = 7", "Xylophon"])).all()


def test_an_unknown_code_is_refused() -> None:
    with pytest.raises(ConfigError):
        language(["a"], code="xx")
