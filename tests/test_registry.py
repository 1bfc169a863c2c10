from __future__ import annotations

import inspect
import linecache
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.registry import REGISTRIES, Registry, load_plugins


def test_static_signature_equals_runtime_signature() -> None:
    """What `ls` and `explain` read from source is what the imported function has."""
    seen = 0
    for known in REGISTRIES.values():
        for name, entry in known.entries().items():
            function = known.get(name)
            parameters = inspect.signature(function).parameters
            keyword = {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
            positional = tuple(
                k for k, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD
            )
            assert entry.inputs == positional
            assert set(entry.settings) == set(keyword)
            for key, setting in entry.settings.items():
                assert setting.default == keyword[key].default, (name, key)
            assert entry.doc == (inspect.getdoc(function) or "")
            assert entry.doc, f"{known.kind} {name} has no docstring"
            seen += 1
    assert seen > 10


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'clipped'"):
        registry.losses.entry("cliped")


def test_settings_are_checked_against_the_signature() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'clip_lo': did you mean 'clip_low'"):
        registry.losses.check("clipped", {"clip_lo": 0.1}, "losses")
    with pytest.raises(
        ConfigError, match=r"losses.clip_low: 'wide' is text, but a number is wanted"
    ):
        registry.losses.check("clipped", {"clip_low": "wide"}, "losses")
    assert registry.losses.check("clipped", {"clip_low": 1}, "losses") == {"clip_low": 1.0}


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from posttrain.registry import REGISTRIES\n"
        "for r in REGISTRIES.values(): r.entries()\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def plugin(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_a_plugin_brings_a_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(
        tmp_path,
        "from posttrain.registry import rewards\n\n"
        "@rewards.register\n"
        "def vowels(completions, *, weight_of_a: float = 2.0):\n"
        "    '''Counts vowels.'''\n"
        "    return [weight_of_a * c.count('a') for c in completions]\n",
    )
    monkeypatch.setattr(registry.rewards, "_plugins", list(registry.rewards._plugins))
    load_plugins(["mine.py"], tmp_path)
    assert registry.rewards.entry("vowels").summary == "Counts vowels."
    assert registry.rewards.bind("vowels", {"weight_of_a": 3})(["banana"]) == [9.0]


def test_plugins_that_do_nothing_are_refused(tmp_path: Path) -> None:
    plugin(tmp_path, "x = 1\n")
    with pytest.raises(ConfigError, match="registers nothing"):
        load_plugins(["mine.py"], tmp_path)
    with pytest.raises(ConfigError, match="no file 'other.py'"):
        load_plugins(["other.py"], tmp_path)
    plugin(tmp_path, "def broken(:\n")
    with pytest.raises(ConfigError, match="mine.py:1: not valid Python"):
        load_plugins(["mine.py"], tmp_path)


def test_inputs_come_from_a_closed_vocabulary(tmp_path: Path) -> None:
    known = Registry("loss", "losses", "losses", frozenset({"logprobs"}))
    path = plugin(
        tmp_path,
        "from posttrain.registry import losses\n@losses.register\ndef mine(logprob):\n    "
        "'''Doc.'''\n    return logprob\n",
    )
    known.package = "no_such_package"
    known.add_plugin(path)
    with pytest.raises(
        ConfigError,
        match="asks for the input 'logprob', which does not exist: did you mean 'logprobs'",
    ):
        known.entries()


def test_registered_in_a_notebook() -> None:
    known = Registry("reward", "rewards", "no_such_package")

    @known.register
    def shouting(completions, *, bonus: float = 1.0):
        """Likes capitals."""
        return [bonus * c.isupper() for c in completions]

    assert known.names() == ["shouting"]
    assert known.entry("shouting").settings["bonus"].default == 1.0
    assert known.bind("shouting", {"bonus": 2})(["A", "b"]) == [2.0, 0.0]


CELL = """
from typing import Literal
from posttrain.losses.inputs import Metrics, PerPair, PerToken
from torch import Tensor

def mine(logprobs, *, mode: Literal["a", "b"] = "a", gamma: float | None = None){returns}:
    '''Doc.'''
    return logprobs
"""


def in_cell(number: int, returns: str = " -> PerToken", name: str = "mine") -> Callable[..., Any]:
    """A function as a notebook defines it: its text is in no file, its annotations are objects."""
    text = CELL.format(returns=returns).replace("def mine", f"def {name}")
    file = f"/tmp/ipykernel_1/{number}.py"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    cell: dict[str, Any] = {}
    exec(compile(text, file, "exec", dont_inherit=True), cell)
    return cell[name]  # type: ignore[no-any-return]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry of losses, which forgets after the test what is registered in it."""
    for name in ("_functions", "_plugins"):
        kept = getattr(registry.losses, name)
        monkeypatch.setattr(registry.losses, name, type(kept)(kept))
    return registry.losses


@pytest.mark.parametrize("returns", ["", " -> Tensor", " -> tuple[Tensor, Metrics]", " -> None"])
@pytest.mark.parametrize("place", ["notebook", "plugin"])
def test_a_loss_that_does_not_declare_what_it_compares_is_refused(
    losses: Registry, tmp_path: Path, returns: str, place: str
) -> None:
    with pytest.raises(
        ConfigError, match=r"loss 'mine' .*does not say what it returns. Write one of -> PerToken"
    ) as caught:
        if place == "notebook":
            losses.register(in_cell(1, returns))
        else:
            text = CELL.format(returns=returns).replace("def mine", "@losses.register\ndef mine")
            plugin(tmp_path, "from posttrain.registry import losses\n" + text)
            losses.add_plugin(tmp_path / "mine.py")
            losses.entries()
    shown = "no return annotation" if not returns else returns.strip().rpartition(",")[0]
    assert shown in str(caught.value) and "-> PerPair" in str(caught.value)
    assert "from posttrain.losses.inputs import PerToken" in str(caught.value)
    assert "mine" not in losses._functions


@pytest.mark.parametrize(
    ("returns", "result"),
    [
        (" -> PerToken", "PerToken"),
        (" -> PerPair", "PerPair"),
        (" -> tuple[PerPair, Metrics]", "PerPair"),
        (" -> 'tuple[PerPair, Metrics]'", "PerPair"),
    ],
)
def test_annotations_of_a_notebook_mean_what_they_mean_in_a_file(
    losses: Registry, tmp_path: Path, returns: str, result: str
) -> None:
    """There PerPair is an object, not text; as a plain tensor it would be averaged per token."""
    losses.register(in_cell(1, returns))
    told = losses.entry("mine")
    assert told.result == result
    text = CELL.format(returns=returns).replace("def mine", "@losses.register\ndef other")
    plugin(tmp_path, "from posttrain.registry import losses\n" + text)
    losses.add_plugin(tmp_path / "mine.py")
    assert losses.entry("other").result == result
    assert told.settings == losses.entry("other").settings
    assert losses.check("mine", {"mode": "b", "gamma": 1}, "losses") == {"mode": "b", "gamma": 1.0}


def test_an_objective_reads_the_result_of_a_notebook_loss(losses: Registry) -> None:
    from posttrain.config import Component
    from posttrain.training.objective import Objective

    losses.register(in_cell(1, " -> PerToken"))
    (term,) = Objective([Component("mine")]).terms
    assert term.per == "token"
    losses.register(in_cell(2, " -> PerPair"))
    with pytest.raises(ConfigError, match="compares a chosen with a rejected completion"):
        Objective([Component("mine")])


def test_the_name_of_a_built_in_function_is_refused(losses: Registry, tmp_path: Path) -> None:
    message = (
        r"loss 'clipped' is defined twice: .*losses/policy.py:\d+ \(built in\) and .*; rename the "
        r"function at .*{}"
    )
    with pytest.raises(ConfigError, match=message.format("ipykernel_1/1.py:")):
        losses.register(in_cell(1, name="clipped"))
    assert losses.get("clipped").__module__ == "posttrain.losses.policy"
    text = CELL.format(returns=" -> PerToken").replace("def mine", "@losses.register\ndef clipped")
    plugin(tmp_path, "from posttrain.registry import losses\n" + text)
    losses.add_plugin(tmp_path / "mine.py")
    with pytest.raises(ConfigError, match=message.format("mine.py:")):
        losses.entries()


def test_a_plugin_cannot_register_a_built_in_name_by_a_call(
    losses: Registry, tmp_path: Path
) -> None:
    """Registered by a call, a function is not among those that are read from the text."""
    text = CELL.format(returns=" -> PerToken").replace("def mine", "def clipped")
    path = plugin(
        tmp_path, f"from posttrain.registry import losses\n{text}\nlosses.register(clipped)\n"
    )
    losses.add_plugin(path)
    with pytest.raises(ConfigError, match=r"failed on import: .*'clipped' is defined twice"):
        registry.import_plugin(path)
    assert losses.get("clipped").__module__ == "posttrain.losses.policy"


def test_a_notebook_cell_that_runs_again_replaces_its_function(losses: Registry) -> None:
    losses.register(in_cell(1))
    again = in_cell(2, " -> tuple[PerToken, Metrics]")
    losses.register(again)
    assert losses.get("mine") is again
    assert losses.entry("mine").returns.startswith("tuple[PerToken")
    assert losses.entry("mine").file == Path("/tmp/ipykernel_1/2.py")


def test_a_method_declares_whether_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline hands on the model of the stages that train one."""

    def silent(run):  # type: ignore[no-untyped-def]
        """Says nothing."""

    with pytest.raises(
        ConfigError,
        match=r"method 'silent' has no return annotation.*-> TrainingJob \(trains a model\)",
    ):
        registry.methods.register(silent)
