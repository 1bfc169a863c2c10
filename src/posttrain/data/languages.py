"""Which language a text is in, by its letters and its commonest words.

Scripts that one language alone uses are enough by themselves. Languages that share a script are
told apart by their commonest words and by letters that the others lack.
"""

from __future__ import annotations

import re
from collections import Counter

_READ = 20_000  # characters of a text

_SCRIPTS = {
    "latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "cyrillic": "\u0400-\u04ff",
    "arabic": "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff",
    "devanagari": "\u0900-\u097f",
    "he": "\u0590-\u05ff",
    "el": "\u0370-\u03ff",
    "bn": "\u0980-\u09ff",
    "pa": "\u0a00-\u0a7f",
    "gu": "\u0a80-\u0aff",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "kn": "\u0c80-\u0cff",
    "ml": "\u0d00-\u0d7f",
    "th": "\u0e00-\u0e7f",
    "kana": "\u3040-\u30ff",
    "ko": "\uac00-\ud7af\u1100-\u11ff",
    "han": "\u4e00-\u9fff",
}
_LETTERS = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS.items()}
_WORD = re.compile(r"[^\W\d_]+")
_WORD_OF_MARKS = re.compile(r"[\u0900-\u097f]+")

_COMMON = {
    "latin": {
        "en": "the of and to in is that it was for on are with as at be this have from you not an "
        "by i my your we they he she his her but will would can if or which their do",
        "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als "
        "auch es an werden aus er hat dass sie nach wird bei einer um am sind noch wie ich wir",
        "fr": "le la les de des et à en un une du est que pour dans qui il sur pas au par ce plus "
        "ne se je vous nous avec sont mais cette elle être aux ou son",
        "es": "el la de que y en los se del las un por con una su para es al lo como más pero sus "
        "le ya este sí porque esta entre cuando muy sin sobre también me hasta hay",
        "it": "il di che e la in un è per una sono con non del si le da nel gli alla dei come più "
        "lo i ma della anche se questo ho mi io nella questa al",
        "pt": "o de que e a do da em um para é com não uma os no se na por mais as dos como mas ao "
        "ele das à seu sua ou quando muito nos já eu também você",
        "nl": "de het een en van in is dat op te zijn met voor niet aan er om ook als dan maar bij "
        "uit ik je deze heeft worden door naar",
        "sv": "och i att det som en på är av för med den till inte har de ett om så från var vi",
        "fi": "ja on ei se että hän oli mutta kun niin joka ovat myös minä sinä tämä sen kuin "
        "voi mitä ole hyvin kaikki jos olen siitä sekä tai vain kanssa minun ovat olla",
        "pl": "w i na z się nie do to że jest o jak po za od ale przez co tak czy dla tym są",
        "tr": "bir ve bu için de da ile ne olarak daha çok gibi var ama en sonra kadar olan",
        "sw": "na ya wa kwa ni katika za la kuwa hii yake cha kama hivyo ambayo pia watu huo "
        "si hilo sana lakini yetu wetu kila mimi wewe yako wako ili au hiyo huyo yangu",
        "vi": "và của là có trong cho không được người một với các những đã khi này để từ đó "
        "tôi bạn rất nhiều cũng như vào ra năm ở sẽ về đến",
        "id": "yang dan di dengan untuk dari dalam ini itu tidak pada adalah akan ke juga saya",
        "ro": "și de la în a cu pe nu este o să un pentru din care mai ce se au fi dar am",
    },
    "cyrillic": {
        "ru": "и в не на что с по это как но за из для от так же у все он она они было бы к я его "
        "мы вы ты или если есть быть который только",
        "bg": "и на да се за не от е с че по са ще си като това аз при което но във със бъде съм "
        "той те до или също който много може ни ми му",
        "uk": "і в не на що з та як до за це від але для у по є про він вона вони його й ми",
    },
    "arabic": {
        "ar": "في من على أن إلى التي الذي هذا هذه عن مع كان لا ما كل أو لم قد هو هي و كما إن ثم",
        "fa": "و در به از که این را با است برای آن یک خود تا بر هم نیز می شود کند شده های ما هر",
        "ur": "کے میں کی ہے اور سے کا کو اس نے پر کہ ایک یہ ہیں نہیں بھی کر ہو تھا جو ہم آپ گیا",
    },
    "devanagari": {
        "hi": "के में की है और से का को इस ने पर कि एक यह हैं नहीं भी कर हो था जो हम आप गया लिए "
        "साथ तो वह अपने होता करने",
        "mr": "आणि आहे या ते हे की आहेत एक तर व नाही मी असे होते तो ती मध्ये साठी करण्यासाठी हा "
        "ही त्या त्यांच्या आपल्या आम्ही माझ्या खूप केले आपण पण",
        "ne": "र छ को मा यो हो लागि पनि छन् एक गर्न भएको हुन्छ तपाईं म हाम्रो गर्ने थियो भने तर "
        "यस त्यो संग बाट गरेको मेरो",
    },
}
_WORDS = {
    script: {code: frozenset(words.split()) for code, words in languages.items()}
    for script, languages in _COMMON.items()
}
_OWN_LETTERS = {
    "fa": re.compile("[پچژگکی]"),
    "ur": re.compile("[ٹڈڑںےہھ]"),
    "ar": re.compile("[ةيكىؤئ]"),
    "vi": re.compile("[ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]", re.IGNORECASE),
    "bg": re.compile("ъ[^еюяё]", re.IGNORECASE),
    "ru": re.compile("[ыэё]", re.IGNORECASE),
    "uk": re.compile("[іїєґ]", re.IGNORECASE),
}

LANGUAGES = tuple(
    sorted(
        {code for languages in _COMMON.values() for code in languages}
        | {name for name in _SCRIPTS if len(name) == 2}
        | {"ja", "zh"}
    )
)
"""ISO 639-1 codes of the languages that are told apart."""


def language_shares(text: str) -> dict[str, float]:
    """Shares of a text's letters by language, summing to 1; empty where it has no letters.

    The letters of a script with several languages are those of the likeliest one. Letters of Latin
    script with no common word at all are of language "".

    >>> language_shares("Das ist nicht der Hund.")
    {'de': 1.0}
    """
    text = text[:_READ]
    counts = {name: len(pattern.findall(text)) for name, pattern in _LETTERS.items()}
    if counts["kana"]:  # Japanese is written with Han characters too
        counts["kana"] += counts.pop("han")
    total = sum(counts.values())
    shares: dict[str, float] = {}
    for script, count in counts.items():
        if count:
            code = _language_in(script, text)
            shares[code] = shares.get(code, 0.0) + count / total
    return shares


def language_of(text: str) -> str:
    """The language of most letters; "" where none is known.

    >>> language_of("C'est la vie, et je suis dans la maison.")
    'fr'
    """
    shares = language_shares(text)
    return max(shares, key=lambda code: shares[code]) if shares else ""


def _language_in(script: str, text: str) -> str:
    if script in ("kana", "han"):
        return "ja" if script == "kana" else "zh"
    if script not in _WORDS:
        return script
    pattern = _WORD_OF_MARKS if script == "devanagari" else _WORD
    words = Counter(word.lower() for word in pattern.findall(text))
    points: dict[str, float] = {}
    for code, common in _WORDS[script].items():
        points[code] = sum(words[word] for word in common)
        if code in _OWN_LETTERS:
            points[code] += len(_OWN_LETTERS[code].findall(text)) / 3
    best = max(points, key=lambda code: points[code])
    return best if points[best] else ""
