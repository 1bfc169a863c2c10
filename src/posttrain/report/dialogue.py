"""The turns of an episode as markup for the cells of a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from posttrain.report.browse import MAX_TURNS, clip
from posttrain.report.records import Call, TurnRecord
from posttrain.report.series import short

MAX_TEXT = 1000
ROLES = ("system", "user", "tool")
"""Roles whose messages have a style."""


def dialogue(turns: Sequence[TurnRecord]) -> str:
    """Messages, completions and tool calls in order; "" where there are no turns. Completions that
    are trained on have a colour of their own. Of many turns the first and the last are shown.
    """
    if not turns:
        return ""
    numbered = list(enumerate(turns, 1))
    left_out = max(len(turns) - MAX_TURNS, 0)
    first, last = (numbered[: MAX_TURNS - 8], numbered[-8:]) if left_out else (numbered, [])
    gap = f"<p>{left_out} turns left out</p>" if left_out else ""
    inside = "".join(_turn(*item) for item in first) + gap + "".join(_turn(*item) for item in last)
    return f'<div class="turns">{inside}</div>'


def _turn(place: int, turn: TurnRecord) -> str:
    messages = "".join(
        _said(m.role, m.text, m.role if m.role in ROLES else "other") for m in turn.messages
    )
    facts = [f"turn {place}"]
    facts += [f"{turn.num_tokens} tokens"] if turn.num_tokens is not None else []
    facts += [] if turn.reward is None else [f"step reward {short(turn.reward)}"]
    facts += [] if turn.is_trained else ["not trained on"]
    facts += ["history rewritten"] if turn.starts_branch else []
    kind = "policy trained" if turn.is_trained else "policy"
    calls = "".join(_call(call) for call in turn.calls)
    return messages + _said(" · ".join(facts), turn.text, kind, calls)


def _said(head: str, text: str, kind: str, more: str = "") -> str:
    body = f"<pre>{escape(clip(text, MAX_TEXT))}</pre>" if text else ""
    return f'<div class="said {kind}"><small>{escape(head)}</small>{body}{more}</div>'


def _call(call: Call) -> str:
    outcome = call.result if call.error is None else call.error
    kind = "call" if call.error is None else "call failed"
    text = f"{call.name}({call.arguments}) → {outcome}"
    return f'<div class="{kind}"><code>{escape(clip(text, MAX_TEXT))}</code></div>'
