"""Rows for active/classes.yaml: short messages to a help desk, with what each is about.

    python recipes/active/make_rows.py [FOLDER]

FOLDER (runs/active/rows) then holds pool.jsonl with 600 rows and held_out.jsonl with 200 others.
Of the five classes one is rare. Some messages use words of two classes, so that labels do not all
teach the same.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

SHARES = {"delivery": 40, "payment": 30, "login": 16, "refund": 10, "legal": 4}
THINGS = {
    "delivery": ["parcel", "van", "courier", "box", "route", "driver", "depot"],
    "payment": ["card", "invoice", "bank", "fee", "balance", "charge", "tax"],
    "login": ["password", "account", "code", "email", "device", "screen", "link"],
    "refund": ["return", "voucher", "credit", "label", "receipt", "exchange", "claim"],
    "legal": ["contract", "lawyer", "notice", "court", "clause", "licence", "consent"],
}
FORMS = [
    "where is the {own}",
    "my {own} is not right",
    "please look at the {own} again",
    "the {own} and the {own2}",
    "nobody answers about my {own}",
    "i have a {other} but ask about the {own}",
    "not the {other}, the {own}",
]


def rows(seed: int, number: int, seen: set[str]) -> list[dict[str, str]]:
    """Different messages, none of which is in `seen`."""
    draw = random.Random(seed)
    made: list[dict[str, str]] = []
    while len(made) < number:
        label = draw.choices(list(SHARES), list(SHARES.values()))[0]
        own, own2 = draw.sample(THINGS[label], 2)
        other = draw.choice(THINGS[draw.choice([name for name in THINGS if name != label])])
        text = draw.choice(FORMS).format(own=own, own2=own2, other=other)
        text = f"{draw.choice(['hello', 'hi', 'good day', 'dear all'])}, {text}"
        if draw.random() < 0.5:
            text += f" since {draw.choice(['monday', 'may', 'last week', 'noon', 'april'])}"
        if text not in seen:
            seen.add(text)
            made.append({"id": f"{seed}-{len(made)}", "text": text, "label": label})
    return made


def main() -> None:
    """Write both files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/active/rows")
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for name, seed, number in (("pool", 1, 600), ("held_out", 2, 200)):
        text = "".join(f"{json.dumps(row)}\n" for row in rows(seed, number, seen))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
