"""Seeds of calls."""

from __future__ import annotations

from posttrain.episodes.ask import call_seed


def test_a_seed_per_episode_prompt_and_occurrence() -> None:
    seeds = {
        call_seed(seed, prompt, occurrence)
        for seed in (0, 1, 2**62, -1)
        for prompt in ((), (1,), (1, 2))
        for occurrence in (0, 1)
    }
    assert len(seeds) == 4 * 3 * 2
    assert all(0 <= s < 2**62 for s in seeds)
    assert call_seed(3, [1, 2], 0) == call_seed(3, (1, 2), 0)


def test_a_seed_stays_the_same() -> None:
    """Runs that are resumed sample as before."""
    assert call_seed(0, (1, 2, 3), 0) == 535385630016216166


def test_ids_of_any_size_can_be_hashed() -> None:
    from posttrain.episodes.ask import ids_bytes

    assert ids_bytes([1, 2**40]) == (1).to_bytes(8, "little") + (2**40).to_bytes(8, "little")
    assert ids_bytes([1, 2**90]) != ids_bytes([1, 2**91])
    assert call_seed(0, (1, 2**90), 0) != call_seed(0, (1, 2**91), 0)
