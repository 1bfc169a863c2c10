"""A process that answers one request after another and can be killed at any moment."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from typing import Any

from posttrain.errors import PosttrainError, RewardError

_START_SECONDS = 120.0


class Worker:
    """One process of `python -m module`, started at the first request.

    The module prints "ready" as JSON, or "missing" where a library is not installed. After that
    each line of its standard input is a JSON request, each line of its standard output the JSON
    answer. A request that misses its deadline costs the process its life; the next starts a new
    one.

    Args:
        missing: what is raised where the module says "missing".
    """

    def __init__(self, module: str, *, missing: PosttrainError | None = None) -> None:
        self.module = module
        self.missing = missing
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def _start(self) -> None:
        self._answers = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # A Ctrl-C at the terminal is the parent's affair: it ends this process by its input.
            start_new_session=True,
        )
        threading.Thread(
            target=self._read, args=(self._process, self._answers), daemon=True
        ).start()
        try:
            line = self._answers.get(timeout=_START_SECONDS)
        except queue.Empty:
            line = ""
        state = json.loads(line) if line else "gone"
        if state == "ready":
            return
        self.kill()
        if state == "missing" and self.missing is not None:
            raise self.missing
        raise RewardError(
            f"the process `python -m {self.module}` did not start within {_START_SECONDS:g} s or "
            "ended at once; run that command by hand to see why"
        )

    @staticmethod
    def _read(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put("")  # the process has gone

    def ask(self, request: Any, seconds: float) -> Any:
        """The answer to a request, or None where there was none in time."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=seconds)
        except (queue.Empty, BrokenPipeError):
            line = ""
        except BaseException:  # interrupted: its answer would be taken for that of the next request
            self.kill()
            raise
        if not line:
            self.kill()
            return None
        return json.loads(line)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None
