"""Mathematical equality, judged in processes that can be killed: never on the trainer's own signals or threads."""

from __future__ import annotations

import atexit
import json
import queue
import re
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from posttrain.errors import MissingDependency
from posttrain.registry import rewards
from posttrain.rewards.exact import extract_answer, last_boxed, parse_number

_START_SECONDS = 60.0
_MAX_LENGTH = 300
_MAX_NESTING = 12
_MAX_CACHED = 50_000
_TOWER = re.compile(r"\^\s*\{?[^{}]*\^|\d{7,}\s*!|!\s*!|\^\s*\{?\s*\d{5,}")


def too_heavy(text: str) -> bool:
    """Whether an expression is too long, too deep or too large to be worth parsing (towers of powers, huge factorials)."""
    depth = deepest = 0
    for letter in text:
        depth += (letter in "{([") - (letter in "})]")
        deepest = max(deepest, depth)
    return len(text) > _MAX_LENGTH or deepest > _MAX_NESTING or _TOWER.search(text) is not None


class _Worker:
    """One judging process. A request that misses its deadline costs the process its life; the next starts a new one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def _start(self) -> None:
        self._answers = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "posttrain.rewards.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._read, args=(self._process, self._answers), daemon=True).start()
        if json.loads(self._answers.get(timeout=_START_SECONDS) or '"missing"') != "ready":
            raise MissingDependency("math-verify", "math")

    @staticmethod
    def _read(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put("")  # the process has gone

    def ask(self, gold: str, prediction: str, seconds: float) -> bool | None:
        """True or false, or None where there was no verdict in time."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([gold, prediction]) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=seconds)
        except (queue.Empty, BrokenPipeError):
            self.kill()
            return None
        if not line:
            self.kill()
            return None
        answer = json.loads(line)
        return answer if isinstance(answer, bool) else None

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None


class MathPool:
    """A few judging processes behind a cache.

    Args:
        num_workers: processes, started on first use. seconds: deadline of one verdict.
    """

    def __init__(self, num_workers: int = 2, seconds: float = 8.0) -> None:
        self.seconds = seconds
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._workers = [_Worker() for _ in range(num_workers)]
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="math-pool")
        self._cache: OrderedDict[tuple[str, str], bool | None] = OrderedDict()
        self._lock = threading.Lock()

    def equal(self, pairs: list[tuple[str, str | None]]) -> list[bool | None]:
        """For each (gold, prediction) whether they are equal; None where no verdict came in time. None never equals."""
        return list(self._threads.map(self._equal, pairs))

    def _equal(self, pair: tuple[str, str | None]) -> bool | None:
        gold, prediction = pair[0].strip(), (pair[1] or "").strip()
        if not prediction:
            return False
        if gold == prediction:
            return True
        a, b = parse_number(gold), parse_number(prediction)
        if a is not None and b is not None and "%" not in gold + prediction:
            return a == b
        if too_heavy(prediction) or too_heavy(gold):
            return False
        with self._lock:
            if (gold, prediction) in self._cache:
                self._cache.move_to_end((gold, prediction))
                return self._cache[gold, prediction]
        worker = self._idle.get()
        try:
            verdict = worker.ask(gold, prediction, self.seconds)
        finally:
            self._idle.put(worker)
        with self._lock:
            self._cache[gold, prediction] = verdict
            if len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return verdict

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.kill()


_pools: list[MathPool] = []


def shared_pool() -> MathPool:
    """The pool of this process, made on first use and closed at its end."""
    if not _pools:
        _pools.append(MathPool())
        atexit.register(_pools[0].close)
    return _pools[0]


def _prediction(text: str) -> str | None:
    boxed = last_boxed(text)
    return boxed if boxed is not None else extract_answer(text, "hash") or extract_answer(text, "last_number")


@rewards.register
def math(completions, answer) -> list[float]:
    r"""1 where the final answer is mathematically equal to the column `answer`, else 0 (math-verify in killable processes).

    The final answer is the last \boxed{...}; without one, what follows "####"; without that, the last number. Equal
    strings and numbers are settled without a parser; expressions too heavy to parse, and verdicts that miss their
    deadline, are 0.
    """
    texts: list[Any] = [c if isinstance(c, str) else str(c[-1]["content"]) for c in completions]
    pairs = [(str(a), _prediction(t)) for t, a in zip(texts, answer, strict=True)]
    return [float(verdict is True) for verdict in shared_pool().equal(pairs)]


math.known_answers = [  # type: ignore[attr-defined]
    (r"thus \boxed{\frac{1}{2}}", "0.5", 1.0),
    (r"thus \boxed{3}", "4", 0.0),
    ("", "4", 0.0),
]
