"""The processes that train one model together. No other module knows of ranks.

    world = World.here()          the processes that torchrun started, or this process alone
    world.spread(items, work)     each process works on its share; every process has all results
    world.sum_gradients(model.trainable_parameters())

Every process of a run makes the same calls in the same order. Small values go over gloo, between
CPUs; gradients on a GPU go over NCCL. PyTorch is imported when there is more than one process.

A process that fails says so in the store that torchrun keeps, and closes its connections. The
others wait in some call at that time or come to one later. They find the connection closed, read
the reason from the store and end with a `RankError`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from posttrain.errors import ConfigError, RankError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
S = TypeVar("S")

JOIN_SECONDS = 300.0
"""How long the processes wait for each other at the start."""

WAIT_SECONDS = 4 * 3600.0
"""How long a process waits for another within a run: longer than any step, checkpoint or
evaluation. A process that ends is noticed at once on CPUs, whatever this is.
"""

PARTING_SECONDS = 10.0
"""How long a process that failed waits until the others have read why."""

BUCKET = 1 << 26
"""Numbers of gradients that are summed by one call."""

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class World:
    """The processes of one run. This class is the world of one process; `here` gives the other.

    Attributes:
        rank: of this process, from 0. size: how many processes there are.
    """

    rank: int = 0
    size: int = 1

    @staticmethod
    def alone() -> World:
        """The world of one process: every call gives back what it is given."""
        return _ALONE

    @staticmethod
    def here(wait_seconds: float = WAIT_SECONDS) -> World:
        """The processes that torchrun started together with this one; this one alone elsewhere.

        The first call joins them, and every process has to make it. Later calls give the same
        world. A world that has ended by an error is joined anew.

        Args:
            wait_seconds: how long one process waits for another within a run.

        Raises:
            ConfigError: variables of torchrun are missing. RankError: others do not join in time.
        """
        global _joined
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return _ALONE
        if _joined is None or _joined.has_ended:
            number = 0 if _joined is None else _joined.number + 1
            _joined = Processes.join(number, wait_seconds)
        return _joined

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    # -- what differs where there are several

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks. Others' values are copies."""
        return [value]

    def from_main(self, function: Callable[[], T]) -> T:
        """What the function gives in the main process, which alone calls it."""
        return function()

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes.

        A parameter without a gradient in some processes counts as 0 there; one without any in all
        of them stays without. Gradients in half precision are summed in float32 and rounded once.
        """

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Within it an error of one process ends all of them.

        Raises:
            RankError: in the other processes; names the rank and its error.
        """
        return contextlib.nullcontext()

    # -- what follows from that

    def all_sum(self, number: float) -> float:
        """The sum of a number over the processes."""
        return sum(self.gather(number))

    def all_max(self, number: float) -> float:
        """The largest of a number."""
        return max(self.gather(number))

    def same_count(self, count: int) -> int:
        """The largest of a count, up to which all processes have to go."""
        return max(self.gather(count))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return any(self.gather(flag))

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.gather(None)

    def spread(self, items: Sequence[S], function: Callable[[list[S]], Sequence[T]]) -> list[T]:
        """The function's results for all items, in order, of which each process makes a share.

        Args:
            items: the same in every process. function: gives one result per item.
        """
        own = list(items[self.rank :: self.size])
        shares = self.gather(list(function(own)) if own else [])
        results: list[Any] = [None] * len(items)
        for rank, share in enumerate(shares):
            results[rank :: self.size] = share
        return results

    def seed(self, seed: int, step: int) -> int:
        """The seed of what is random in this process alone, such as dropout. That of the main
        process is the run's own.
        """
        if self.is_main:
            return seed
        import numpy as np

        return int(np.random.default_rng((seed, 21, self.rank, step)).integers(2**62))

    def __repr__(self) -> str:
        return f"World(rank={self.rank}, size={self.size})"


class Processes(World):
    """Several processes, connected by PyTorch.

    Args:
        store: what all processes can write to and read from.
        number: how many worlds of this process came before.
    """

    def __init__(self, rank: int, size: int, store: Any, number: int, wait_seconds: float) -> None:
        import torch.distributed as dist

        self.rank, self.size, self.number = rank, size, number
        self._wait_seconds = wait_seconds
        self._store = dist.PrefixStore(f"posttrain/{number}", store)
        # The only reference: the connections close when it goes.
        self._group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=wait_seconds))
        self._places: list[tuple[str, int]] = []
        self._places = self.gather((socket.gethostname(), os.getpid()))

    @classmethod
    def join(cls, number: int, wait_seconds: float) -> Processes:
        """Connect this process with the others that torchrun has started."""
        missing = [name for name in _VARIABLES if name not in os.environ]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and {missing[0]} is not set; start the "
                "processes by torchrun, which sets both, or unset WORLD_SIZE to train in one"
            )
        import torch
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        wait = timedelta(seconds=wait_seconds)
        try:
            store, rank, size = next(
                iter(rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))
            )
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
            if not dist.is_initialized():
                backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
                own = dist.PrefixStore("posttrain", store)
                dist.init_process_group(
                    backend, store=own, rank=rank, world_size=size, timeout=wait
                )
            return cls(rank, size, store, number, wait_seconds)
        except RuntimeError as error:
            raise RankError(
                f"rank {os.environ['RANK']} cannot join the {os.environ['WORLD_SIZE']} processes "
                f"at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({_line(error)}); "
                "look at what the other processes say, and whether they reach that address"
            ) from error

    @property
    def has_ended(self) -> bool:
        """Whether the connections are closed."""
        return self._group is None

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks."""
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with self._connected():
            dist.all_gather_object(values, value, group=self._group)
        values[self.rank] = value
        return values

    def from_main(self, function: Callable[[], T]) -> T:
        """What the function gives in the main process."""
        import torch.distributed as dist

        values: list[Any] = [function() if self.is_main else None]
        own = values[0]
        with self._connected():
            dist.broadcast_object_list(values, src=0, group=self._group)
        return own if self.is_main else values[0]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes."""
        # Gradients of shares are sums over the processes already (`models.sharding`).
        every = [p for p in parameters if not hasattr(p, "device_mesh")]
        present = self.gather([p.grad is not None for p in every])
        summed = [p for p, flags in zip(every, zip(*present, strict=True)) if any(flags)]
        for bucket in _buckets(summed):
            self._sum_bucket(bucket)

    def _sum_bucket(self, bucket: Sequence[torch.nn.Parameter]) -> None:
        import torch
        import torch.distributed as dist

        dtype = bucket[0].dtype
        wide = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().to(wide) for p in bucket]
        )
        with self._connected():
            dist.all_reduce(flat, group=self._group if flat.device.type == "cpu" else None)
        pieces = flat.split([p.numel() for p in bucket])
        for p, piece in zip(bucket, pieces, strict=True):
            p.grad = piece.view_as(p).to(dtype)

    # -- errors

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within it an error of one process ends all of them."""
        try:
            yield
        except RankError:
            self._part()
            raise
        except BaseException as error:
            self._part(f"{type(error).__name__}: {error}")
            raise

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """Within it PyTorch's errors of communication become a `RankError`."""
        if self._group is None:
            raise RankError(f"rank {self.rank} has left this run by an error before")
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> RankError:
        """What became of the others, as far as it can be known."""
        end = time.monotonic() + 2.0
        while True:
            for rank in (r for r in range(self.size) if r != self.rank):
                if reason := self._reason(rank):
                    return RankError(
                        f"rank {rank} of {self.size} failed, so rank {self.rank} ends too: "
                        f"{reason}",
                        rank=rank,
                    )
            for rank, (host, pid) in enumerate(self._places):
                if host == socket.gethostname() and _has_died(pid):
                    return RankError(
                        f"rank {rank} of {self.size} (process {pid}) was killed or crashed, so "
                        f"rank {self.rank} ends too. Go on from the last checkpoint with resume",
                        rank=rank,
                    )
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        return RankError(
            f"rank {self.rank} of {self.size} has lost the others, or has waited longer than "
            f"{self._wait_seconds:g} seconds for them ({_line(error)}). Look at what they say, "
            "and go on from the last checkpoint with resume"
        )

    def _reason(self, rank: int) -> str:
        """Why a process failed, "" where it has not said."""
        with contextlib.suppress(RuntimeError):
            if self._store.check([f"error/{rank}"]):
                return bytes(self._store.get(f"error/{rank}")).decode()
        return ""

    def _part(self, reason: str = "") -> None:
        """Close the connections, after saying why, and wait until the others know."""
        import torch.distributed as dist

        if self._group is None:
            return
        with contextlib.suppress(RuntimeError):
            if reason:
                self._store.set(f"error/{self.rank}", reason)
            self._store.set(f"parted/{self.rank}", "")
        dist.destroy_process_group(self._group)
        self._group = None
        end = time.monotonic() + PARTING_SECONDS
        with contextlib.suppress(RuntimeError):  # the store goes with its process
            keys = [f"parted/{rank}" for rank in range(self.size) if not self._is_dead(rank)]
            while not self._store.check(keys) and time.monotonic() < end:
                time.sleep(0.05)

    def _is_dead(self, rank: int) -> bool:
        host, pid = self._places[rank]
        return host == socket.gethostname() and _has_died(pid)


_ALONE = World()
_joined: Processes | None = None


def rank_of_environment() -> int:
    """The rank that torchrun gave this process, 0 where there is none; nothing is joined."""
    return int(os.environ.get("RANK", "0")) if "WORLD_SIZE" in os.environ else 0


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> list[list[torch.nn.Parameter]]:
    """Parameters of one type and device each, of about `BUCKET` numbers."""
    buckets: list[list[torch.nn.Parameter]] = []
    room: dict[Any, tuple[list[torch.nn.Parameter], int]] = {}
    for p in parameters:
        kind = (p.dtype, p.device)
        bucket, size = room.get(kind, ([], 0))
        if not bucket or size + p.numel() > BUCKET:
            bucket, size = [], 0
            buckets.append(bucket)
        bucket.append(p)
        room[kind] = bucket, size + p.numel()
    return buckets


def _has_died(pid: int) -> bool:
    """Whether a process of this machine has ended; one that nobody has waited for has, too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    with contextlib.suppress(OSError, IndexError):
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return status.rpartition(")")[2].split()[0] in ("Z", "X")
    return False


def _line(error: BaseException) -> str:
    """The first line of an error, cut."""
    return str(error).partition("\n")[0][:160]
