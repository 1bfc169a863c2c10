"""The loop of an agent: tools, environments, and every way in which an episode ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from posttrain.episodes.agent import Agent, EpisodeLimits
from posttrain.episodes.drive import Failed, drive
from posttrain.episodes.environments import Step, TextEnvironment
from posttrain.errors import ConfigError
from posttrain.types import Example, Sampling, Trace

PROMPT = [{"role": "user", "content": "What is 12 + 30?"}]


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    return a + b


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


class Run:
    """Episodes of a scripted model with Qwen's template."""

    def __init__(self, templates: Any, engines: Any, style: str = "qwen3") -> None:
        self.tokenizer = templates.tokenizer(style)
        self.end = templates.STYLES[style][1]
        self.engines = engines
        self.engine: Any = None

    def __call__(
        self,
        policy: Callable[[str], str] | list[str],
        environment: Any = None,
        tools: Any = (),
        *,
        example: Example | None = None,
        sampling: Sampling | None = None,
        context_length: int | None = None,
        **settings: Any,
    ) -> Trace:
        script = iter(policy) if isinstance(policy, list) else None
        self.engine = self.engines.scripted(
            self.tokenizer, (lambda _: next(script)) if script else policy, self.end
        )
        self.engine.context_length = context_length
        agent = Agent(self.tokenizer, environment, **settings)
        (trace,) = drive(
            [lambda ask: agent(example or Example(PROMPT, answer="42"), ask, tools)],
            self.engine,
            sampling=sampling or Sampling(max_tokens=200),
            seeds=[5],
        )
        assert isinstance(trace, Trace), trace
        return trace


@pytest.fixture
def run(templates: Any, engines: Any) -> Run:
    return Run(templates, engines)


def continues(trace: Trace) -> list[bool]:
    """For each turn but the first, whether its context begins with the turn before."""
    pairs = zip(trace.turns, trace.turns[1:], strict=False)
    return [b.context_ids[: len(a.ids)] == a.ids for a, b in pairs]


def test_a_tool_loop(run: Run) -> None:
    trace = run(["I add.\n" + call("add", a=12, b=30), "It is 42."], tools=[add])
    assert trace.stop_reason == "completed" and trace.error is None and trace.reward is None
    first, second = trace.turns
    (made,) = first.tool_calls
    assert (made.name, made.arguments, made.result) == ("add", {"a": 12, "b": 30}, "42")
    assert first.messages == PROMPT
    assert second.messages == [
        {"role": "tool", "name": "add", "content": "42", "tool_call_id": "call00000"}
    ]
    assert trace.text == "It is 42." and continues(trace) == [True]
    assert first.is_trained and second.is_trained
    assert trace.metrics["num_tool_calls"] == 1 and trace.metrics["num_branches"] == 0
    prompt = run.tokenizer.decode(first.context_ids)
    assert '"name": "add"' in prompt and "What is 12 + 30?" in prompt


def test_errors_go_back_to_the_model(run: Run) -> None:
    trace = run(
        [call("add", a=12), call("sum", a=1), call("add", a=1, b=2) * 2, "Done."], tools=[add]
    )
    texts = [m["content"] for turn in trace.turns[1:] for m in turn.messages]
    assert texts[0] == "Error: the argument 'b' is missing"
    assert texts[1].startswith("Error: there is no tool 'sum'") and texts[2:] == ["3", "3"]
    assert trace.metrics["num_tool_errors"] == 2 and trace.metrics["num_turns"] == 4
    assert continues(trace) == [True] * 3


def test_thoughts_that_are_dropped_branch(run: Run) -> None:
    class Quiz(TextEnvironment):
        def reset(self, **row: Any) -> None:
            self.round = 0

        def step(self, action: str) -> Step:
            assert action == f"answer {self.round}"
            self.round += 1
            return Step(f"Question {self.round}?", reward=0.5, done=self.round == 3)

    turns = [f"<think>\nhm {i}\n</think>\n\nanswer {i}" for i in range(3)]
    trace = run(turns, Quiz)
    assert trace.stop_reason == "completed" and trace.metrics["num_branches"] == 2
    assert continues(trace) == [False, False]
    assert [turn.reward for turn in trace.turns] == [0.5] * 3 and trace.reward == 1.5
    assert trace.rewards == {"environment": 1.5}


class Game:
    """In the shape of TRL's environment_factory."""

    def reset(self, /, **row: Any) -> str:
        self.target = int(row["answer"])
        self.guesses = 0
        self.closed = False
        return f" Guess a number, {row['name']}."

    def guess(self, number: int) -> str:
        """Guess the number.

        Args:
            number: your guess.
        """
        self.guesses += 1
        self.done = number == self.target
        return "right" if self.done else "higher" if number < self.target else "lower"

    def _secret(self) -> int:
        return self.target

    def get_reward(self) -> float:
        return 1.0 / self.guesses if self.guesses else 0.0

    done = False


ROW = Example(PROMPT, answer="42", columns={"name": "Ada"})


def test_an_environment_with_tools(run: Run) -> None:
    trace = run([call("guess", number=7), call("guess", number=42), "!"], Game, example=ROW)
    assert trace.stop_reason == "tool_stopped" and len(trace.turns) == 2
    assert trace.reward == 0.5 and trace.rewards == {"environment": 0.5}
    first = trace.turns[0].messages[-1]["content"]
    assert first == "What is 12 + 30? Guess a number, Ada."
    prompt = run.tokenizer.decode(trace.turns[0].context_ids)
    assert '"guess"' in prompt and "_secret" not in prompt and '"get_reward"' not in prompt


def test_several_environments_by_name(run: Run) -> None:
    other = Example(
        PROMPT, answer="42", columns={"name": "Ada", "environment": "game", "self": 1, "method": 2}
    )
    assert run(["No."], {"game": Game, "none": None}, example=other).reward == 0.0
    wrong = Example(PROMPT, columns={"environment": "gane"})
    agent = Agent(run.tokenizer, {"game": Game})
    (failed,) = drive([lambda ask: agent(wrong, ask)], run.engine)
    assert isinstance(failed, Failed) and "'game'" in failed.reason


def forever(text: str) -> str:
    return call("add", a=1, b=1)


@pytest.mark.parametrize(
    ("limits", "reason", "turns"),
    [
        ({"max_turns": 3}, "max_turns", 3),
        ({"max_tool_calls": 2}, "max_tool_calls", 3),
        ({"max_tokens": 100}, "max_tokens", None),
        ({"max_context": 400}, "context_overflow", None),
        ({"max_turns": 0, "timeout_seconds": 0.3}, "timeout", None),
    ],
)
def test_limits(run: Run, limits: dict[str, Any], reason: str, turns: int | None) -> None:
    trace = run(forever, tools=[add], limits=EpisodeLimits(**limits))
    assert trace.stop_reason == reason and trace.error is None
    assert turns is None or len(trace.turns) == turns
    assert len(trace.turns) >= 1
    if reason == "max_tokens":
        assert trace.num_sampled <= 100
    if reason == "context_overflow":
        assert max(len(turn.ids) for turn in trace.turns) <= 400


def test_a_prompt_that_overflows_is_an_episode(run: Run) -> None:
    trace = run(forever, tools=[add], context_length=20)
    assert trace.stop_reason == "context_overflow" and trace.turns == [] and trace.error is None


def test_a_completion_that_is_cut(run: Run) -> None:
    trace = run(["The answer is: " + "42 " * 30], sampling=Sampling(max_tokens=10))
    assert trace.stop_reason == "max_tokens" and trace.turns[0].is_trained
    trace = run([call("add", a=12, b=30)], tools=[add], sampling=Sampling(max_tokens=10))
    assert trace.stop_reason == "max_tokens" and not trace.turns[0].is_trained
    assert trace.turns[0].tool_calls == []


def test_malformed_calls(run: Run) -> None:
    bad = '<tool_call>\n{"name": "add", }\n</tool_call>'
    trace = run([bad], tools=[add])
    assert trace.stop_reason == "parse_error" and not trace.turns[0].is_trained
    assert run([bad], tools=[add], train_unparsed=True).turns[0].is_trained
    trace = run(
        [bad, call("add", a=1, b=2), bad], tools=[add], limits=EpisodeLimits(max_parse_errors=1)
    )
    assert trace.stop_reason == "parse_error" and len(trace.turns) == 3
    assert (
        trace.turns[1].messages[0]["content"].startswith("Error: the tool call could not be read")
    )
    assert [turn.is_trained for turn in trace.turns] == [False, True, False]
    assert trace.metrics["num_parse_errors"] == 2


def test_a_slow_tool_is_an_error_for_the_model(run: Run) -> None:
    def wait() -> str:
        """Wait."""
        time.sleep(30)
        return "done"

    trace = run([call("wait"), "Too slow."], tools=[wait], limits=EpisodeLimits(tool_seconds=0.1))
    assert trace.stop_reason == "completed" and trace.error is None
    assert trace.turns[0].tool_calls[0].error == "the tool took longer than 0.1 s"


class Broken(Game):
    broken = ""

    def reset(self, **row: Any) -> str:
        if self.broken == "reset":
            raise OSError("no server")
        if self.broken == "slow":
            time.sleep(30)
        return super().reset(**row)

    def get_reward(self) -> Any:
        return {"get_reward": "much", "nan": float("nan")}.get(self.broken, 1)


@pytest.mark.parametrize(
    ("broken", "named", "turns"),
    [
        ("make", "cannot be made", 0),
        ("reset", "OSError: no server", 0),
        ("slow", "longer than 0.1 s", 0),
        ("get_reward", "'much'", 1),
        ("nan", "nan", 1),
    ],
)
def test_an_environment_that_fails(run: Run, broken: str, named: str, turns: int) -> None:
    def make() -> Any:
        if broken == "make":
            raise RuntimeError("no licence")
        environment = Broken()
        environment.broken = broken
        return environment

    Broken.broken = ""
    trace = run(["No."], make, example=ROW, limits=EpisodeLimits(tool_seconds=0.1))
    assert trace.error is not None and named in trace.error
    assert trace.reward is None and trace.rewards == {} and len(trace.turns) == turns


def test_a_text_environment_that_fails_keeps_its_turns(run: Run) -> None:
    closed: list[bool] = []

    class Fails(TextEnvironment):
        def reset(self, **row: Any) -> str:
            assert row["seed"] == 5 and row["prompt"] == PROMPT
            return ""

        def step(self, action: str) -> Step:
            raise KeyError(action)

        def close(self) -> None:
            closed.append(True)

    trace = run(["left"], Fails)
    assert trace.error is not None and "left" in trace.error and len(trace.turns) == 1
    assert closed == [True]
    with pytest.raises(AssertionError, match="leave the tools out"):
        run(["left"], Fails, tools=[add])


def test_an_environment_that_owns_its_prompt(run: Run) -> None:
    class Owns(TextEnvironment):
        owns_prompt = True

        def reset(self, **row: Any) -> Any:
            return [{"role": "user", "content": "Say yes."}]

        def step(self, action: str) -> Step:
            return Step(None, reward=float(action == "yes"), metrics={"length": 3.0})

    trace = run(["yes"], Owns, system="You play.")
    assert trace.reward == 1.0 and trace.metrics["length"] == 3.0
    assert [m["role"] for m in trace.turns[0].messages] == ["system", "user"]
    assert "12" not in run.tokenizer.decode(trace.turns[0].context_ids)


def test_plain_text(run: Run) -> None:
    class Sums(TextEnvironment):
        def reset(self, **row: Any) -> str:
            return "1+1="

        def step(self, action: str) -> Step:
            return Step("\n2+2=", reward=1.0)

    trace = run(
        ["2", "4"], Sums, example=Example("Add. "), limits=EpisodeLimits(max_turns=2), system="Hm."
    )
    assert trace.stop_reason == "max_turns" and continues(trace) == [True] and trace.reward == 2.0
    assert run.tokenizer.decode(trace.turns[-1].context_ids) == (
        "Hm.\n\nAdd. 1+1=2<|im_end|>\n2+2="
    )
    # The same prompt with a tool is a chat; without a template it is text.
    assert "<|im_start|>" in run.tokenizer.decode(
        run(["2"], tools=[add], example=Example("Add.")).turns[0].context_ids
    )
    forced = run(["2"], example=Example("Add."), chat=True)
    assert "<|im_start|>user" in run.tokenizer.decode(forced.turns[0].context_ids)
    with pytest.raises(AssertionError, match="chat"):
        run(["2"], chat=False)


@pytest.mark.parametrize("style", ["llama3", "mistral"])
def test_other_templates(templates: Any, engines: Any, style: str) -> None:
    texts = {
        "llama3": '{"name": "add", "parameters": {"a": 12, "b": 30}}',
        "mistral": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 12, "b": 30}}]',
    }
    trace = Run(templates, engines, style)([texts[style], texts[style], "42"], tools=[add])
    assert trace.stop_reason == "completed" and continues(trace) == [True, True]
    assert [c.result for turn in trace.turns for c in turn.tool_calls] == ["42", "42"]


def test_episodes_do_not_depend_on_what_runs_beside(templates: Any, engines: Any) -> None:
    tokenizer, end = templates.tokenizer("qwen3"), templates.STYLES["qwen3"][1]
    seeds: dict[str, Any] = {}

    def traces(order: list[int], **limits: Any) -> dict[int, Any]:
        def write(request: Any, index: int) -> Any:
            text = call("add", a=request.seed % 50, b=1) if request.seed % 4 else "Done."
            return engines.sample(tokenizer(text + end, add_special_tokens=False)["input_ids"])

        agent = Agent(tokenizer, limits=EpisodeLimits(max_turns=5))
        programs = [
            lambda ask, i=i: agent(Example([{"role": "user", "content": f"{i}"}]), ask, [add])
            for i in order
        ]
        results = drive(programs, engines.BatchEngine(write), seeds=order, **limits)
        return {
            i: [turn.ids for turn in trace.turns] for i, trace in zip(order, results, strict=True)
        }

    whole = traces(list(range(12)))
    assert traces([3, 11, 7, 0], max_concurrent=2) == {i: whole[i] for i in (3, 11, 7, 0)}
    assert len({len(turns) for turns in whole.values()}) > 1 and seeds == {}


@pytest.mark.parametrize("name", ["max_turns", "tool_seconds", "timeout_seconds"])
def test_limits_are_checked(name: str) -> None:
    for value in (-1, float("inf")):
        with pytest.raises(ConfigError, match=name):
            EpisodeLimits(**{name: value})
