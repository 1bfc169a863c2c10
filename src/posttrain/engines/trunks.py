"""Which beginnings of prompts are held once for several prompts while they decode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from posttrain.engines.prefix_tree import num_equal

Prompt = tuple[int, ...]

_SHORTEST = 64  # tokens of a trunk
_SAVING = 0.5  # a trunk is used if at most this share of the tokens remains
_DEPTH = 64  # of branches within branches


def find_trunks(
    rows: Mapping[Prompt, int], resident: Iterable[Prompt] = ()
) -> dict[Prompt, Prompt]:
    """The beginning of each prompt that is held once for all rows that share it.

    What lies behind a trunk is held once per row, what lies before its end once in all. With rows
    r of a set of prompts that begin with a trunk of s tokens, one trunk costs

        s + sum_r (len_r - s)

    tokens, and the prompt itself is a trunk of cost len. Where prompts part several times the best
    places are found from the ends up.

    Args:
        rows: how many rows continue each prompt. resident: trunks that are held already.
    Returns:
        prompt -> trunk; the prompt itself where it shares none.
    """
    held: dict[Prompt, list[Prompt]] = {}
    for trunk in resident:
        held.setdefault(trunk[:_SHORTEST], []).append(trunk)
    trunks: dict[Prompt, Prompt] = {}
    families: dict[Prompt, list[Prompt]] = {}
    for prompt, count in rows.items():
        resident_trunk = _held(prompt, count, held.get(prompt[:_SHORTEST], ()))
        if resident_trunk is not None:
            trunks[prompt] = resident_trunk
        elif len(prompt) < _SHORTEST:
            trunks[prompt] = prompt
        else:
            families.setdefault(prompt[:_SHORTEST], []).append(prompt)
    for family in families.values():
        trunks |= _best(sorted(family), rows, 0)[1]
    return trunks


def _held(prompt: Prompt, count: int, trunks: Iterable[Prompt]) -> Prompt | None:
    """The longest resident trunk of a prompt that is worth its rows' own tokens."""
    longest = max((t for t in trunks if prompt[: len(t)] == t), key=len, default=())
    rest = (len(prompt) - len(longest)) * count
    if rest and (len(longest) < _SHORTEST or rest > _SAVING * len(prompt)):
        return None
    return longest


def _best(
    prompts: Sequence[Prompt], rows: Mapping[Prompt, int], depth: int
) -> tuple[int, dict[Prompt, Prompt]]:
    """The least cost of prompts in lexicographic order, and the trunks that have it."""
    apart = sum(map(len, prompts)), {p: p for p in prompts}
    if len(prompts) == 1 or depth == _DEPTH:
        return apart
    shared = num_equal(prompts[0], prompts[-1])
    branches: dict[Prompt, list[Prompt]] = {}
    for prompt in prompts:
        branches.setdefault(prompt[shared : shared + 1], []).append(prompt)
    parts = [_best(branch, rows, depth + 1) for branch in branches.values()]
    cost = sum(part[0] for part in parts)
    together = shared + sum((len(p) - shared) * rows[p] for p in prompts)
    if shared >= _SHORTEST and together <= _SAVING * cost:
        trunk = prompts[0][:shared]
        return together, dict.fromkeys(prompts, trunk)
    return cost, {prompt: trunk for part in parts for prompt, trunk in part[1].items()}
