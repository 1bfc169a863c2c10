"""Published environments: their sources, policies, figures and what is wrong with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from posttrain.episodes.agent import Agent
from posttrain.types import Example

from .loading import load


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = load("environments", monkeypatch)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "interpreters")
    monkeypatch.setattr(module, "RESULT", tmp_path / "environments.json")
    return module


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("side_environments", monkeypatch)


def figures(reward: float, failed: int = 0) -> dict[str, Any]:
    one = {"episodes": 4, "failed": 0, "turns": 8, "tool_calls": 4, "seconds": 0.5}
    return {"policy": {**one, "reward": reward}, "model": {**one, "reward": 0.0, "failed": failed}}


def test_each_can_be_played(environments: ModuleType, side: ModuleType) -> None:
    assert set(environments.ENVIRONMENTS) == set(side.PLAYS)
    for published in environments.ENVIRONMENTS.values():
        assert published.interpreter in environments.PACKAGES
        assert all(len(commit) == 40 for (_, commit), _ in published.sources)


def test_what_is_wrong(environments: ModuleType) -> None:
    assert environments.problems("verifiers-glossary", figures(1.0)) == []
    assert len(environments.problems("verifiers-glossary", figures(0.9))) == 1
    assert len(environments.problems("verifiers-glossary", figures(1.0, failed=1))) == 1
    assert "4 episodes, 1 failed" in environments.line("a", figures(1.0, failed=1))


def test_sources_that_cannot_be_fetched_are_left_out(
    environments: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    nowhere = ((str(tmp_path / "nowhere"), "0" * 40), "a")
    published = environments.Published("trl", (nowhere,), 1.0)
    monkeypatch.setitem(environments.ENVIRONMENTS, "broken", published)
    sources = str(tmp_path / "sources")
    assert environments.main(["--only", "broken", "--sources", sources]) == 0
    assert "skipped: git" in capsys.readouterr().out
    assert json.loads(environments.RESULT.read_text()) == {}


def test_a_result(
    environments: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources that are there are not fetched again; a policy below its reward is a failure."""
    published = environments.ENVIRONMENTS["verifiers-glossary"]
    ((repository, commit), path) = published.sources[0]
    (tmp_path / f"verifiers-{commit[:9]}" / path).mkdir(parents=True)
    played = tmp_path / "python"
    played.write_text(f"#!/bin/sh\necho '{json.dumps(figures(0.5))}'\n")
    played.chmod(0o755)
    monkeypatch.setattr(environments, "interpreter", lambda name: played)
    arguments = ["--only", "verifiers-glossary", "--sources", str(tmp_path)]
    assert environments.main(arguments) == 1
    result = json.loads(environments.RESULT.read_text())["verifiers-glossary"]
    assert result["policy"]["reward"] == 0.5 and result["source"].startswith(repository)
    played.write_text("#!/bin/sh\necho lost >&2\nexit 3\n")
    with pytest.raises(RuntimeError, match="lost"):
        environments.main(arguments)


GAME = '''
import trl

class Game:
    def reset(self, **row):
        self.score = 0.0
        return "Go."

    def move(self, direction: str) -> str:
        """
        Move.

        Args:
            direction: where to.
        """
        self.score += 1
        return "moved"

def score(environments, **others):
    return [environment.score for environment in environments]

def main():
    prompts = [{"prompt": [{"role": "user", "content": "Play."}]}]
    trainer = trl.GRPOTrainer(
        model="large", train_dataset=prompts, reward_funcs=score,
        args=trl.GRPOConfig(learning_rate=1.0), environment_factory=Game,
    )
    trainer.train()

if __name__ == "__main__":
    main()
'''


def test_a_script_of_trls_shape(
    side: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    monkeypatch.setitem(sys.modules, "trl", ModuleType("trl"))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    script = tmp_path / "game.py"
    script.write_text(GAME)
    folder = Path(side.__file__).parent.parent / "src" / "posttrain" / "assets" / "tools"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with side.trl_2048(tokenizer, str(script)) as play:
        assert isinstance(play.episode, Agent) and isinstance(play.examples[0], Example)
        assert '"direction": "down"' in play.policy("<tool_call>")
        found = side.figures(play, side.Scripted(tokenizer, play.policy))
    assert found["failed"] == 0 and found["reward"] == side.LIMITS.max_turns
    assert found["tool_calls"] == found["turns"] == side.NUM_EPISODES * side.LIMITS.max_turns
