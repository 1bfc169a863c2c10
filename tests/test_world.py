"""The processes of one run: what they exchange, and how they end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from process_groups import outcomes, results

from posttrain.errors import ConfigError, RankError
from posttrain.world import World, rank_of_environment


def test_one_process_gets_back_what_it_gives() -> None:
    world = World.alone()
    value = object()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert world.gather(value) == [value] and world.from_main(lambda: value) is value
    assert world.all_sum(2.5) == 2.5 and world.all_max(-1.0) == -1.0 and world.same_count(3) == 3
    assert world.any(True) and not world.any(False)
    assert world.spread([1, 2, 3], lambda own: [x * x for x in own]) == [1, 4, 9]
    assert world.spread([], lambda own: own) == [] and world.seed(7, 3) == 7
    parameter = torch.nn.Parameter(torch.ones(2))
    world.sum_gradients([parameter])
    assert parameter.grad is None
    with world.together():
        world.barrier()


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert World.here() is World.alone() and rank_of_environment() == 0
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert World.here() is World.alone()


def test_half_of_the_variables_of_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert rank_of_environment() == 1
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        World.here()


def exchanged() -> dict[str, Any]:
    """What a process gets from every call."""
    world = World.here()
    rank = world.rank
    parameters = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(3)]
    parameters.append(torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16)))
    parameters[0].grad = torch.tensor([1.0, 10.0], dtype=torch.float64) * (rank + 1)
    if rank == 1:  # the others have none of the second; nobody has any of the third
        parameters[1].grad = torch.tensor([5.0, 6.0], dtype=torch.float64)
    # In bfloat16 256 + 1 + 1 would stay 256.
    parameters[3].grad = torch.full((3,), 256.0 if rank == 0 else 1.0, dtype=torch.bfloat16)
    world.sum_gradients(parameters)
    calls: list[list[int]] = []

    def squares(own: list[int]) -> list[int]:
        calls.append(own)
        return [x * x for x in own]

    spread = world.spread([1, 2, 3, 4, 5], squares)
    few = world.spread([9], squares)
    return {
        "same": World.here() is world,
        "place": (rank, world.size, world.is_main),
        "gather": world.gather(("value", rank)),
        "main": world.from_main(lambda: ("from", rank)),
        "numbers": (world.all_sum(rank + 0.5), world.all_max(rank), world.same_count(rank + 3)),
        "flags": (world.any(rank == 1), world.any(False)),
        "spread": spread,
        "few": few,
        "calls": calls,
        "seed": world.seed(7, 3),
        "gradients": [None if p.grad is None else p.grad.tolist() for p in parameters],
    }


def test_what_processes_exchange(tmp_path: Path) -> None:
    ranks = results(3, exchanged, folder=tmp_path)
    assert [r["place"] for r in ranks] == [(0, 3, True), (1, 3, False), (2, 3, False)]
    for r in ranks:
        assert r["same"] and r["gather"] == [("value", 0), ("value", 1), ("value", 2)]
        assert r["main"] == ("from", 0) and r["numbers"] == (4.5, 2, 5)
        assert r["flags"] == (True, False)
        assert r["spread"] == [1, 4, 9, 16, 25] and r["few"] == [81]
        assert r["gradients"] == [[6.0, 60.0], [5.0, 6.0], None, [258.0] * 3]
    assert [r["calls"] for r in ranks] == [[[1, 4], [9]], [[2, 5]], [[3]]]
    assert ranks[0]["seed"] == 7 and len({r["seed"] for r in ranks}) == 3


def failing() -> Any:
    """Rank 1 fails while the others wait for it; then all of them begin again."""
    caught: BaseException
    try:
        with World.here().together():
            if World.here().rank == 1:
                raise ValueError("a row is broken")
            World.here().barrier()
            raise AssertionError("the barrier was passed")
    except (ValueError, RankError) as error:
        caught = error
    rank = getattr(caught, "rank", None)
    return type(caught).__name__, rank, str(caught), World.here().gather("again")


def test_an_error_of_one_process_ends_all_and_they_may_begin_again(tmp_path: Path) -> None:
    ranks = results(3, failing, folder=tmp_path)
    assert [r[0] for r in ranks] == ["RankError", "ValueError", "RankError"]
    assert all(r[1] == 1 and "ValueError: a row is broken" in r[2] for r in (ranks[0], ranks[2]))
    assert all(r[3] == ["again"] * 3 for r in ranks)


def killed(victim: int) -> None:
    """A process is killed while the others wait for it."""
    with World.here().together():
        World.here().barrier()
        if World.here().rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        World.here().barrier()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_named(tmp_path: Path, victim: int) -> None:
    ranks = outcomes(2, killed, victim, folder=tmp_path)
    assert ranks[victim] is None
    other = ranks[1 - victim]
    assert isinstance(other, RankError) and other.rank == victim and "resume" in str(other)
