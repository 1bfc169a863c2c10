"""Searches on `posttrain serve embedded` as on any server: the accounts are the server's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.cli import main
from posttrain.search.base import Selection

pytest.importorskip("openai", reason="an endpoint needs OpenAI's client")
pytest.importorskip("fastapi", reason="the server needs the extra serve")
pytest.importorskip("uvicorn", reason="the server needs the extra serve")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A served embedded model."""
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "posttrain.cli", "serve", "embedded", "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen([*command, "--name", "m"], stderr=stream, env=environment)
    end = time.monotonic() + 240
    while "serving" not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    yield next(word for word in log.read_text().split() if word.startswith("http://"))
    process.terminate()
    process.wait(60)


def test_a_vote_and_a_search_by_steps(address: str) -> None:
    server = pt.Endpoint(address, "m", max_retries=0)
    task: Any = {"name": "arithmetic", "num_steps": 2, "num_examples": 3, "split": "test"}
    local = pt.evaluate("embedded", task, search=pt.majority_vote(num_samples=4))
    there = pt.evaluate(server, task, search=pt.majority_vote(num_samples=4))
    assert all(o.answers[0] is not None for o in there.outcomes)
    # The same model at the same temperature: tokens are of the same order, a letter is no token.
    assert 0.5 < there.accounts["sampled_tokens"] / local.accounts["sampled_tokens"] < 2

    steps: list[str] = []

    async def by_steps(prompt: Any, ask: Any, extract: Any, decode: Any) -> Selection:
        """Line by line, each behind the lines before."""
        from posttrain.search.base import Candidate, select

        path = Candidate((), "", 0.0, False, context_ids=prompt)
        for _ in range(6):
            (step,) = await ask((*prompt, *path.ids), stop=("\n",))
            path = path.grown(step, decode)
            steps.append(step.text)
            if path.stop_string is None:
                break
        assert path.logprob < 0 and len(path.logprobs) == len(path.ids)
        return select([path], 0, extract)

    stepped = pt.evaluate(server, task, search=by_steps, budget=60)
    assert stepped.failures == [] and len(steps) > 3
    assert all(sum(o.num_tokens) <= 60 for o in stepped.outcomes)


def test_the_command(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"search {address} endpoint.model=m --search majority_vote --task arithmetic"
    more = f"num_examples=2 num_samples=2 --output {tmp_path / 'out'}"
    assert main([*arguments.split(), *more.split()]) == 0
    assert (tmp_path / "out" / "evaluation.json").is_file()
    prompts = ["search", address, "endpoint.model=m", "--search", "majority_vote"]
    assert main([*prompts, "--prompt", "Q: 3+4\nA:", "max_tokens=9", "num_samples=2"]) == 0
    assert "tokens" in capsys.readouterr().out
