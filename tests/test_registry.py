from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

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
            positional = tuple(k for k, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD)
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
    with pytest.raises(ConfigError, match=r"losses.clip_low: 'wide' is text, but a number is wanted"):
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
        "from posttrain.registry import losses\n@losses.register\ndef mine(logprob):\n    '''Doc.'''\n    return logprob\n",
    )
    known.package = "no_such_package"
    known.add_plugin(path)
    with pytest.raises(ConfigError, match="asks for the input 'logprob', which does not exist: did you mean 'logprobs'"):
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
