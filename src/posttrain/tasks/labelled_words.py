"""Texts with labels whose meaning is only in the demonstrations: the mapping is drawn anew.

A class has keywords and a name, all of them drawn at random. A text is a few words with one keyword
of its class. Nothing but examples of the same mapping tells which word is a keyword and what the
class is called, so whatever is right beyond chance was learnt in context.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.types import Example, Message, Task

_FREQUENT = """
a about above after again all also always am an and animal another any are around as ask at away
back bad ball be because been before began begin best better between big bird black blue boat
body book both box boy bring brown building but buy by call came can capital car carry cat
change children city clean close cold color come company could count country cut dark day did
different do does dog done door down drink drive each earth eat end enough even ever every eye
face fall family far fast father feel few film find fire first fish five fly follow food for
found four free friend from full fun game garden gave get girl give go going good great green
group grow had hand happy hard has have he head hear help her here high him his hold home horse
hot hour house how I idea if important in into invented is it its just keep kind know known land
language large last late laugh learn leave left life light like line list little live long look
love low made make man many mean men might money moon more most mother mountain move much music
must my name near need never new next night no not now number of off often old on once one only
open or other our out over own page paper part people person picture place plant play point
president question quick quiet rain read real red rest rich right river road room round run sad
said same saw say school sea second see seem set she ship short should show side sing sit six
sleep small snow so some song soon sound star start state stop story street strong such summer
sun take talk tall tell ten than that the their them then there these they thing think this
those three through time to today together told too took top town tree true try turn two under
until up us use very walk want war warm was wash watch water way we week well went were what
when where which while white who whole why will wind winter with woman wood word words work
world would write year yellow yes yet you young your
"""

WORDS = _FREQUENT.split()
"""The words of texts and labels: frequent words of English, and some of questions."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Which words say which class.

    keywords: of each class, disjoint. labels: the name of each class. noise: the other words.
    """

    keywords: list[list[str]]
    labels: list[str]
    noise: list[str]

    def draw_text(self, draw: random.Random, label: int, length: int) -> str:
        """A text of a class: one of its keywords among `length` - 1 other words."""
        words = draw.choices(self.noise, k=length - 1)
        words.insert(draw.randint(0, length - 1), draw.choice(self.keywords[label]))
        return " ".join(words)


def draw_mapping(draw: random.Random, num_labels: int, num_keywords: int) -> Mapping:
    """A mapping of keywords to names. One word in eight is of random letters."""
    words = [
        w if draw.random() < 7 / 8 else _invented(draw) for w in draw.sample(WORDS, len(WORDS))
    ]
    words = list(dict.fromkeys(words))
    labels, rest = words[:num_labels], words[num_labels:]
    used = num_labels * num_keywords
    keywords = [rest[i : i + num_keywords] for i in range(0, used, num_keywords)]
    return Mapping(keywords, labels, rest[used:])


def _invented(draw: random.Random) -> str:
    return "".join(draw.choices(_LETTERS, k=draw.randint(2, 6)))


@tasks.register
def labelled_words(
    *,
    num_examples: int = 400,
    num_labels: int = 4,
    num_keywords: int = 1,
    max_words: int = 6,
    seed: int = 0,
) -> Task:
    """Texts of one random mapping of keywords to labels, to be labelled from demonstrations.

    Without demonstrations no model can do better than chance, 1 / num_labels on average.

    Args:
        num_examples: number of texts, spread evenly over the labels.
        num_labels: number of classes.
        num_keywords: keywords of each class, of which a text has one.
        max_words: most words of a text; the number is uniform from 1.
        seed: of the mapping and of the texts.
    """
    _check(num_labels, num_keywords, max_words)
    draw = random.Random(f"labelled words {seed} {num_labels} {num_keywords} {max_words}")
    mapping = draw_mapping(draw, num_labels, num_keywords)
    examples = []
    for number in range(num_examples):
        label = number % num_labels
        text = mapping.draw_text(draw, label, draw.randint(1, max_words))
        examples.append(Example(text, answer=mapping.labels[label], id=f"labelled-{number}"))
    draw.shuffle(examples)

    def score(text: str, example: Example) -> float:
        return float(text.strip() == example.answer)

    return Task("labelled_words", examples, score, extract=str.strip, max_tokens=8)


@tasks.register
def labelled_dialogues(
    *, num_examples: int = 10_000, max_shots: int = 24, max_words: int = 8, seed: int = 0
) -> Task:
    """Conversations that the embedded in-context model is trained on.

    Each has a mapping of its own (`labelled_words`) with 2 to 6 labels and 1 or 2 keywords. The
    user gives a text in each turn, most of them short, and the assistant gives its label. The first
    text of a keyword cannot be labelled but by chance; the later ones can.
    There is nothing to verify: the score is always 1.

    Args:
        num_examples: number of conversations.
        max_shots: most texts of a conversation; the number is uniform from 4.
        max_words: most words of a text.
        seed: of the conversations.
    """
    if max_shots < 4 or max_words < 1:
        raise ConfigError(
            f"labelled_dialogues: max_shots is {max_shots} and max_words {max_words}; at least 4 "
            "and 1"
        )
    draw = random.Random(f"labelled dialogues {seed} {max_shots} {max_words}")
    examples = [_dialogue(draw, max_shots, max_words, f"labelled-{i}") for i in range(num_examples)]
    return Task("labelled_dialogues", examples, lambda text, example: 1.0, lambda text: None)


def _dialogue(draw: random.Random, max_shots: int, max_words: int, name: str) -> Example:
    mapping = draw_mapping(draw, draw.randint(2, 6), draw.choice((1, 1, 2)))
    longest = max(1, max_words // draw.choice((1, 2, 4, 8)))
    turns: list[Message] = []
    for _ in range(draw.randint(4, max_shots)):
        label = draw.randrange(len(mapping.labels))
        text = mapping.draw_text(draw, label, draw.randint(1, longest))
        turns.append({"role": "user", "content": text})
        turns.append({"role": "assistant", "content": mapping.labels[label]})
    return Example(turns[:1], turns[1:], id=name)


def _check(num_labels: int, num_keywords: int, max_words: int) -> None:
    """Refuse more classes or keywords than there are words.

    Raises:
        ConfigError: a number is out of its range.
    """
    if num_labels < 2 or num_keywords < 1 or num_labels * (num_keywords + 1) > len(WORDS) // 2:
        raise ConfigError(
            f"labelled_words: num_labels is {num_labels} and num_keywords {num_keywords}; there "
            f"must be at least 2 labels and 1 keyword, and all of them at most {len(WORDS) // 2} "
            "words"
        )
    if max_words < 1:
        raise ConfigError(f"labelled_words: max_words is {max_words}; it must be at least 1")
