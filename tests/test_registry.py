from __future__ import annotations

import functools
import inspect
import linecache
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from posttrain import registry
from posttrain.component import Component
from posttrain.errors import ConfigError
from posttrain.registry import REGISTRIES, Registry, load_plugins


def test_static_signature_equals_runtime_signature() -> None:
    """What `ls` and `explain` read from source is what the imported function has."""
    seen = 0
    for known in REGISTRIES.values():
        for name, entry in known.entries().items():
            function = known.get(name)
            parameters = inspect.signature(function).parameters
            # All parameters of a method are settings: keys of a recipe.
            whole = known is registry.methods
            keyword = {k: p for k, p in parameters.items() if whole or p.kind is p.KEYWORD_ONLY}
            positional = tuple(k for k in parameters if k not in keyword)
            assert entry.inputs == positional
            assert set(entry.settings) == set(keyword)
            for key, setting in entry.settings.items():
                assert setting.default == keyword[key].default, (name, key)
            assert entry.doc == (inspect.getdoc(function) or "")
            assert entry.doc, f"{known.kind} {name} has no docstring"
            seen += 1
    assert seen > 10


def test_a_default_is_a_value_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    head = "import math\nfrom posttrain.registry import searches\n\nMARK = END = '\\n'\n\n"
    body = "@searches.register\nasync def mine(prompt, ask, *, {}):\n    'Mine.'\n"
    known = Registry("search", "searches", "search")
    known.add_plugin(path)
    path.write_text(head + body.format("mark: str = MARK, most: float = -math.inf, n: int = 3"))
    settings = known.entry("mine").settings
    assert {k: s.default for k, s in settings.items()} == {"mark": "\n", "most": -math.inf, "n": 3}
    for place, default in enumerate(("best", "open('x')", "math.sqrt", "MARK + END")):
        path.write_text(
            head + "async def best(): ...\n\n\n" + body.format(f"inner: str = {default}")
        )
        os.utime(path, ns=(0, place))
        with pytest.raises(
            ConfigError, match="mine.py:[0-9]+: search 'mine': the default of setting 'inner'"
        ):
            known.entry("mine")


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
import posttrain.registry
from posttrain.losses.inputs import Metrics
from torch import Tensor

Mode = Literal["a", "b"]

{decorator}
def mine(logprobs: Tensor, *, mode: Mode = "a", gamma: float | None = None) -> Tensor:
    '''Doc.'''
    return logprobs
"""
REGISTER = "@posttrain.registry.losses.register"


def in_cell(number: int, name: str = "mine") -> Callable[..., Any]:
    """A function as a notebook defines it: its text is in no file, its annotations are objects."""
    text = CELL.format(decorator="").replace("def mine", f"def {name}")
    file = f"/tmp/ipykernel_1/{number}.py"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    cell: dict[str, Any] = {}
    exec(compile(text, file, "exec", dont_inherit=True), cell)
    return cell[name]  # type: ignore[no-any-return]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry of losses, which forgets after the test what is registered in it."""
    for name in ("_functions", "_plugins"):
        value = getattr(registry.losses, name)
        monkeypatch.setattr(registry.losses, name, type(value)(value))
    return registry.losses


def add(losses: Registry, folder: Path, decorator: str, name: str = "mine") -> Path:
    """A plugin with one loss."""
    path = plugin(folder, CELL.format(decorator=decorator).replace("def mine", f"def {name}"))
    losses.add_plugin(path)
    return path


def test_an_undeclared_loss_is_refused_wherever_it_is_defined(
    losses: Registry, tmp_path: Path
) -> None:
    line = r"mine.py:10|ipykernel_1/1.py"
    refused = rf"({line}).*'mine'.*@losses.register\(per='token'\).*per='pair'"
    with pytest.raises(ConfigError, match=refused):
        losses.register(in_cell(1))
    assert "mine" not in losses._functions
    with pytest.raises(ConfigError, match=refused):
        losses.entry_of(Component.of(in_cell(1)))
    add(losses, tmp_path, REGISTER)
    with pytest.raises(ConfigError, match=refused):
        losses.entries()


@pytest.mark.parametrize("declared", ["per='words'", "pre='token'", "per=[1]", "per=1"])
def test_a_wrong_declaration_is_refused(losses: Registry, tmp_path: Path, declared: str) -> None:
    add(losses, tmp_path, f"{REGISTER}({declared})")
    with pytest.raises(ConfigError) as caught:
        losses.entries()
    assert declared in str(caught.value)


def test_a_declaration_is_a_literal(losses: Registry, tmp_path: Path) -> None:
    add(losses, tmp_path, f"{REGISTER}(per=str(1))")
    with pytest.raises(ConfigError, match=r"mine.py:9.*per=str\(1\)"):
        losses.entries()


@pytest.mark.parametrize(
    "decorator",
    [
        "from posttrain.registry import losses\n@losses.register(per='pair')",
        "from posttrain import registry\n@registry.losses.register(per='pair')",
        "import posttrain as pt\n@pt.losses.register(per='pair')",
        "import posttrain as pt\n@pt.loss(per='pair')",
        "from posttrain import loss\n@loss(per='pair')",
    ],
)
def test_the_spellings_of_a_decorator(losses: Registry, tmp_path: Path, decorator: str) -> None:
    add(losses, tmp_path, decorator)
    assert losses.entry("mine").per == "pair"


def test_any_value_may_be_declared_where_a_registry_has_no_list(tmp_path: Path) -> None:
    known = Registry("method", "methods", "no_such_package")

    @known.register(trains=True, group="preference")
    def mine(data: str, *, steps: int = 1) -> None:
        """Doc."""

    assert list(known.entry("mine").settings) == ["data", "steps"]
    assert known.entry("mine").declared == {"trains": True, "group": "preference"}
    path = plugin(tmp_path, '@methods.register(trains=True)\ndef other(run):\n    """Doc."""\n')
    known.add_plugin(path)
    assert known.entry("other").declared == {"trains": True}


def test_a_notebook_and_a_file_declare_the_same(losses: Registry, tmp_path: Path) -> None:
    """In a notebook annotations are objects, in a file they are text; aliases mean the same."""
    losses.register(per="pair")(in_cell(1))
    add(losses, tmp_path, f"{REGISTER}(per='pair')", name="other")
    for entry in (losses.entry("mine"), losses.entry("other")):
        assert entry.per == "pair"
        assert entry.settings["mode"].hint == Literal["a", "b"]
        checked = losses.check(entry.name, {"mode": "b", "gamma": 1}, "losses")
        assert checked == {"mode": "b", "gamma": 1.0}
        with pytest.raises(ConfigError, match=r"losses.mode: 'c'"):
            losses.check(entry.name, {"mode": "c"}, "losses")


def test_an_objective_reads_what_a_loss_declares(losses: Registry) -> None:
    from posttrain.training.objective import Objective

    losses.register(per="token")(in_cell(1))
    (term,) = Objective([Component("mine")]).terms
    assert term.per == "token"
    losses.register(per="pair")(in_cell(2))
    with pytest.raises(ConfigError, match="'mine'"):
        Objective([Component("mine")])


def test_functions_are_components(losses: Registry) -> None:
    """A function, a lambda and a partial are used as they are, with their settings checked."""
    from posttrain.losses.likelihood import nll

    mine = losses.register(per="token")(in_cell(1))
    power_of = losses.register(per="token")(lambda logprobs, *, power=2: logprobs**power)
    assert losses.entry_of(Component.of(nll)).per == "token"
    assert losses.entry_of(Component.of(power_of)).name == "lambda"
    assert not {"<lambda>", "lambda"} & set(losses.names())
    assert losses.bind_of(Component.of(power_of))(3) == 9
    assert losses.bind_of(Component("p", {"power": 3}, function=power_of))(3) == 27
    bound = functools.partial(mine, mode="b")
    assert losses.entry_of(Component.of(bound)).per == "token"
    assert losses.entry_of(Component.of(bound)).settings["mode"].default == "b"
    assert Component.of(bound).name == "mine"
    with pytest.raises(ConfigError, match="'modus'.*'mode'"):
        losses.bind_of(Component("mine", {"modus": "b"}, function=mine), "losses")
    with pytest.raises(ConfigError, match="losses.mode: 'c'"):
        losses.bind_of(Component("mine", {"mode": "c"}, function=mine), "losses")


def test_an_object_with_a_call_is_a_reward() -> None:
    class Shouting:
        """Likes capitals."""

        def __call__(self, completions: list[str], *, bonus: float = 1.0) -> list[float]:
            return [bonus * c.isupper() for c in completions]

    component = Component.of(Shouting())
    assert registry.rewards.entry_of(component).inputs == ("completions",)
    assert registry.rewards.entry_of(component).per == "completion"
    assert registry.rewards.bind_of(component)(["A", "b"]) == [1.0, 0.0]


def test_rewards_of_steps_are_declared() -> None:
    entries = registry.rewards.entries()
    assert {n for n, e in entries.items() if e.per == "step"} == {
        "arithmetic_steps",
        "process_model",
    }


def test_the_name_of_a_built_in_function_is_refused(losses: Registry, tmp_path: Path) -> None:
    """Neither the entry nor the function is replaced."""
    place = r"losses/policy.py:\d+ \(built in\) and .*{}"
    with pytest.raises(ConfigError, match=place.format("ipykernel_1/1.py:")):
        losses.register(per="token")(in_cell(1, name="clipped"))
    assert losses.get("clipped").__module__ == "posttrain.losses.policy"
    assert losses.entry("clipped").file.name == "policy.py"
    add(losses, tmp_path, f"{REGISTER}(per='token')", name="clipped")
    with pytest.raises(ConfigError, match=place.format("mine.py:")):
        losses.entries()


def test_a_plugin_cannot_register_a_built_in_name_by_a_call(
    losses: Registry, tmp_path: Path
) -> None:
    """Registered by a call, a function is not among those that are read from the text."""
    path = add(losses, tmp_path, "", name="clipped")
    path.write_text(path.read_text() + f"\n{REGISTER[1:]}(per='token')(clipped)\n")
    with pytest.raises(ConfigError, match=r"failed on import: .*'clipped' is defined twice"):
        registry.import_plugin(path)
    assert losses.get("clipped").__module__ == "posttrain.losses.policy"


def test_a_notebook_cell_that_runs_again_replaces_its_function(losses: Registry) -> None:
    losses.register(per="token")(in_cell(1))
    again = in_cell(2)
    losses.register(per="sequence")(again)
    assert losses.get("mine") is again
    assert losses.entry("mine").per == "sequence"
    assert losses.entry("mine").file == Path("/tmp/ipykernel_1/2.py")


def test_a_changed_plugin_is_read_again(losses: Registry, tmp_path: Path) -> None:
    path = add(losses, tmp_path, f"{REGISTER}(per='token')")
    assert losses.entry("mine").per == "token"
    path.write_text(path.read_text().replace("per='token'", "per='group'"))
    os.utime(path, ns=(1, 1))
    assert losses.entry("mine").per == "group"


def test_a_second_lookup_reads_nothing(losses: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    first = losses.entry("clipped")
    monkeypatch.setattr(registry, "entries_of_file", None)
    assert losses.entry("clipped") is first
