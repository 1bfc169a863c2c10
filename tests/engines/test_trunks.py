"""Which beginnings are held once while prompts decode."""

from __future__ import annotations

from posttrain.engines.trunks import find_trunks

Prompt = tuple[int, ...]
TRUNK: Prompt = tuple(range(100))


def branches(trunk: Prompt, count: int, length: int) -> list[Prompt]:
    return [(*trunk, *[1000 + k] * length) for k in range(count)]


def test_branches_of_a_long_trunk_share_it() -> None:
    prompts = branches(TRUNK, 8, 20)
    assert find_trunks(dict.fromkeys(prompts, 1)) == dict.fromkeys(prompts, TRUNK)


def test_prompts_that_share_little_or_have_many_rows_stay_whole() -> None:
    short = branches(TRUNK[:40], 8, 20)
    assert find_trunks(dict.fromkeys(short, 1)) == {p: p for p in short}
    many = branches(TRUNK, 8, 20)
    assert find_trunks(dict.fromkeys(many, 16)) == {p: p for p in many}  # own parts 16 times
    assert find_trunks({TRUNK: 64}) == {TRUNK: TRUNK}


def test_each_problem_of_a_common_instruction_has_its_trunk() -> None:
    problems = [(*TRUNK, *[500 + k] * 200) for k in range(4)]
    prompts = [b for p in problems for b in branches(p, 16, 30)]
    trunks = find_trunks(dict.fromkeys(prompts, 1))
    assert set(trunks.values()) == set(problems)
    assert all(prompt[: len(trunk)] == trunk for prompt, trunk in trunks.items())


def test_a_resident_trunk_serves_later_branches() -> None:
    prompts = branches(TRUNK, 2, 10)
    assert find_trunks({prompts[0]: 1}, [TRUNK]) == {prompts[0]: TRUNK}
    assert find_trunks({prompts[0]: 1}, [TRUNK, prompts[0]]) == {prompts[0]: prompts[0]}
    assert find_trunks({prompts[0]: 1}, [TRUNK[:90], TRUNK[:50]])[prompts[0]] == TRUNK[:90]
    long = (*TRUNK, *range(500, 900))
    assert find_trunks({long: 1}, [TRUNK]) == {long: long}


def test_a_chain_of_prompts_has_a_bounded_depth() -> None:
    chain = [tuple(range(n)) for n in range(64, 700)]
    trunks = find_trunks(dict.fromkeys(chain, 1))
    assert all(prompt[: len(trunk)] == trunk for prompt, trunk in trunks.items())
