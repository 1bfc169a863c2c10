"""One published environment, in its own interpreter: `environments.py` calls this.

python side_environments.py NAME PATH ...       # the figures are the last line, as JSON
"""

from __future__ import annotations

import contextlib
import json
import re
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from posttrain.engines.torch import TorchEngine
from posttrain.episodes.adapters.trl import scored_by
from posttrain.episodes.agent import Agent
from posttrain.episodes.drive import drive
from posttrain.episodes.limits import EpisodeLimits
from posttrain.episodes.recording import RecordedAgent
from posttrain.models.load import load_model
from posttrain.types import Example, Request, Sample, Sampling, Trace

NUM_EPISODES = 16
LIMITS = EpisodeLimits(max_turns=8, tool_seconds=60.0)
SAMPLING = Sampling(max_tokens=128)
TURN = "<|assistant|>\n"
END = "<|end|>"


@dataclass(frozen=True)
class Play:
    """An environment ready to be played. policy: text of the context -> what it writes."""

    examples: list[Example]
    episode: Callable[..., Any]
    policy: Callable[[str], str]


def call(tool: str, **arguments: Any) -> str:
    """A tool call as the embedded model writes it."""
    content = json.dumps({"name": tool, "arguments": arguments})
    return f"<tool_call>{content}</tool_call>"


class Scripted:
    """An engine that writes what a policy says."""

    context_length = None
    stop_ids: frozenset[int] = frozenset()
    weights_version = 0

    def __init__(self, tokenizer: Any, policy: Callable[[str], str]) -> None:
        self.tokenizer, self.policy = tokenizer, policy

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """One sample per request."""
        return [[self._sample(request)] for request in requests]

    def _sample(self, request: Request) -> Sample:
        text = self.policy(str(self.tokenizer.decode(request.prompt_ids))) + END
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return Sample(ids, [0.0] * len(ids), [0.0] * len(ids), "stop")


# ---- TRL


def captured(script: str, *arguments: str) -> dict[str, Any]:
    """What a script of TRL's gives to its trainer. The trainer alone is exchanged."""
    import trl

    given: dict[str, Any] = {}

    class Trainer:
        def __init__(self, **settings: Any) -> None:
            given.update(settings)

        def train(self) -> None:
            """Nothing: the environment is played here."""

    trl.GRPOTrainer = Trainer
    trl.GRPOConfig = dict
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    return given


def trl_play(tokenizer: Any, given: dict[str, Any], policy: Callable[[str], str]) -> Play:
    """The environment of a script of TRL's."""
    rows = [given["train_dataset"][i % len(given["train_dataset"])] for i in range(NUM_EPISODES)]
    examples = [Example(row["prompt"], columns=row) for row in rows]
    environment = scored_by(given["environment_factory"], given["reward_funcs"])
    return Play(examples, Agent(tokenizer, environment, limits=LIMITS), policy)


@contextlib.contextmanager
def trl_2048(tokenizer: Any, script: str) -> Iterator[Play]:
    """2048 in this process: the policy moves in turn to all sides."""

    def policy(text: str) -> str:
        moves = ("left", "down", "right", "up")
        return call("move", direction=moves[text.count("<tool_call>") % len(moves)])

    yield trl_play(tokenizer, captured(script), policy)


# The module's own `app` serves one session at a time; there are as many as episodes here.
_ECHO_SERVER = """
import sys
import uvicorn
from echo_env.server.app import EchoAction, EchoEnvironment, EchoObservation, create_app
EchoEnvironment.SUPPORTS_CONCURRENT_SESSIONS = True
app = create_app(EchoEnvironment, EchoAction, EchoObservation, max_concurrent_envs=256)
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical")
"""


@contextlib.contextmanager
def trl_echo(tokenizer: Any, script: str, package: str, core: str) -> Iterator[Play]:
    """OpenEnv's echo server, in a process of its own: it pays 0.1 a letter of what it echoes."""
    paths = [str(Path(package).parent), str(Path(core).parent)]
    sys.path[:0] = paths
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", _ECHO_SERVER, str(port)],
        env={"PYTHONPATH": ":".join(paths), "PATH": "/usr/bin:/bin"},
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _await(url + "/health")

        def policy(text: str) -> str:
            if "<|tool|>" in text:
                return "Done."
            return call("echo", message=re.findall(r"'([^']*)'", text)[-1])

        yield trl_play(tokenizer, captured(script, "--env-host", url), policy)
    finally:
        server.terminate()
        server.wait()


def _await(url: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


# ---- verifiers


@contextlib.contextmanager
def recorded(tokenizer: Any, environment: Any, policy: Callable[[str], str]) -> Iterator[Play]:
    """An environment of verifiers below 0.2, which asks a recording server."""
    from posttrain.episodes.adapters.verifiers import VerifiersEnvironment
    from posttrain.serve.recording import RecordingServer

    program = VerifiersEnvironment(environment)
    with RecordingServer() as server:
        episode = RecordedAgent(tokenizer, program, server, limits=LIMITS)
        yield Play(program.examples(NUM_EPISODES), episode, policy)


@contextlib.contextmanager
def tool_test(tokenizer: Any, folder: str) -> Iterator[Play]:
    """Call exactly the tools that are named."""
    sys.path.insert(0, folder)
    import tool_test as published

    values = {"tool_A": 1, "tool_B": "a", "tool_C": 0.5, "tool_D": True}

    def policy(text: str) -> str:
        names = re.findall(r"'(tool_\w)'", text)
        return "".join(call(name, x=values[name]) for name in names)

    with recorded(tokenizer, published.load_environment(NUM_EPISODES, 1), policy) as play:
        yield play


@contextlib.contextmanager
def reasoning_gym_env(tokenizer: Any, folder: str) -> Iterator[Play]:
    """Sums of reasoning-gym."""
    sys.path.insert(0, folder)
    import reasoning_gym_env as published

    def policy(text: str) -> str:
        numbers = re.findall(r"[-+] ?\d+|\d+", text.partition("problem: ")[2])
        return f"<answer>{sum(int(n.replace(' ', '')) for n in numbers)}</answer>"

    environment = published.load_environment("chain_sum", NUM_EPISODES, 1)
    with recorded(tokenizer, environment, policy) as play:
        yield play


@contextlib.contextmanager
def glossary(tokenizer: Any, folder: str) -> Iterator[Play]:
    """A taskset with a tool: look a name up and say what is found."""
    sys.path.insert(0, folder)
    from glossary.taskset import GlossaryConfig, GlossaryTaskset

    from posttrain.episodes.adapters.verifiers_tasks import VerifiersTask, task_examples

    taskset = GlossaryTaskset(GlossaryConfig(id="glossary"))

    def policy(text: str) -> str:
        _, has_result, result = text.partition("<|tool|>\n")
        if has_result:
            return f"<answer>{result.partition(END)[0]}</answer>"
        return call("facts_lookup", name=re.findall(r'look up "([^"]*)"', text)[-1])

    tasks = task_examples(taskset)
    examples = [tasks[i % len(tasks)] for i in range(NUM_EPISODES)]
    yield Play(examples, Agent(tokenizer, lambda: VerifiersTask(taskset), limits=LIMITS), policy)


PLAYS: dict[str, Callable[..., contextlib.AbstractContextManager[Play]]] = {
    "trl-2048": trl_2048,
    "trl-echo": trl_echo,
    "verifiers-tool-test": tool_test,
    "verifiers-reasoning-gym": reasoning_gym_env,
    "verifiers-glossary": glossary,
}


def figures(play: Play, engine: Any) -> dict[str, Any]:
    """Episodes of all examples on an engine."""
    started = time.perf_counter()
    results = drive(
        [lambda ask, example=example: play.episode(example, ask) for example in play.examples],
        engine,
        sampling=SAMPLING,
    )
    seconds = time.perf_counter() - started
    traces = [r if isinstance(r, Trace) else r.trace() for r in results]
    rewards = [trace.reward for trace in traces if trace.reward is not None]
    failed = [trace.error for trace in traces if trace.error is not None]
    turns = [turn for trace in traces for turn in trace.turns]
    return {
        "episodes": len(traces),
        "failed": len(failed),
        "errors": sorted(set(failed)),
        "reward": round(sum(rewards) / len(rewards), 4) if rewards else None,
        "turns": len(turns),
        "tool_calls": sum(len(turn.tool_calls) for turn in turns),
        "sampled_tokens": sum(len(turn.sample.ids) for turn in turns),
        "seconds": round(seconds, 2),
    }


def main(name: str, *paths: str) -> None:
    """Print the figures of an environment."""
    model = load_model(str(files("posttrain") / "assets" / "tools"), dtype="float32")
    with PLAYS[name](model.tokenizer, *paths) as play:
        scripted = figures(play, Scripted(model.tokenizer, play.policy))
        found = {"policy": scripted, "model": figures(play, TorchEngine(model))}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
