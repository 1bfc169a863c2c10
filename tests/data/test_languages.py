"""Languages of texts."""

from __future__ import annotations

import pytest

from posttrain.data.languages import LANGUAGES, language_of, language_shares

SENTENCES = {
    "mr": "मी आज खूप आनंदी आहे आणि माझ्या मित्रांसोबत बाहेर जात आहे.",
    "ne": "म आज धेरै खुसी छु र मेरो साथीहरूसँग बाहिर जाँदै छु। यो राम्रो छ।",
    "hi": "मैं आज बहुत खुश हूँ और अपने दोस्तों के साथ बाहर जा रहा हूँ।",
    "fa": "من امروز بسیار خوشحال هستم و با دوستانم بیرون می‌روم.",
    "ur": "میں آج بہت خوش ہوں اور اپنے دوستوں کے ساتھ باہر جا رہا ہوں۔",
    "ar": "أنا سعيد جدا اليوم وسأخرج مع أصدقائي إلى المدينة.",
    "bg": "Аз съм много щастлив днес и ще изляза с приятелите си.",
    "ru": "Я сегодня очень счастлив и пойду гулять с моими друзьями.",
    "sw": "Mimi nina furaha sana leo na ninatoka na marafiki zangu kwa chakula.",
    "vi": "Hôm nay tôi rất vui và tôi đi chơi với bạn bè.",
    "fi": "Olen tänään hyvin iloinen ja menen ulos ystävieni kanssa.",
    "it": "Oggi sono molto felice e esco con i miei amici.",
    "pt": "Hoje estou muito feliz e vou sair com os meus amigos.",
    "de": "Ich bin heute sehr glücklich und gehe mit meinen Freunden aus.",
    "en": "I am very happy today and I will go out with my friends.",
    "es": "Hoy estoy muy feliz y voy a salir con mis amigos.",
    "fr": "Je suis très heureux et je sors avec mes amis dans la ville.",
    "ko": "오늘 나는 매우 행복하다",
    "th": "วันนี้ฉันมีความสุขมาก",
    "pa": "ਮੈਂ ਅੱਜ ਬਹੁਤ ਖੁਸ਼ ਹਾਂ",
    "gu": "હું આજે ખૂબ ખુશ છું",
    "bn": "আমি আজ খুব খুশি",
    "ta": "நான் இன்று மிகவும் மகிழ்ச்சியாக இருக்கிறேன்",
    "te": "నేను ఈరోజు చాలా సంతోషంగా ఉన్నాను",
    "kn": "ನಾನು ಇಂದು ತುಂಬಾ ಸಂತೋಷವಾಗಿದ್ದೇನೆ",
    "ja": "今日はとても嬉しいです",
    "zh": "我今天很高兴",
    "el": "Είμαι πολύ χαρούμενος σήμερα",
    "he": "אני מאוד שמח היום",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_of_each(code: str) -> None:
    assert language_of(SENTENCES[code]) == code and code in LANGUAGES


def test_shares_are_of_letters() -> None:
    shares = language_shares("I am here and you are there 我们在这里")
    assert set(shares) == {"en", "zh"} and sum(shares.values()) == pytest.approx(1)
    assert shares["zh"] == pytest.approx(5 / 26)
    assert language_shares("123 !?") == {} and language_of("") == ""
    assert language_of("xyzzy") == ""
