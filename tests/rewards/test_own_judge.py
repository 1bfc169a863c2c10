"""Judges that name no model."""

from __future__ import annotations

import pytest

from posttrain.config import Component
from posttrain.rewards.own_judge import EngineAhead, is_own_judge, judged_by


@pytest.mark.parametrize("name", ["judge", "judge_win_rate", "rubric", "reasoned_judge"])
def test_a_judge_without_a_model_gets_the_engine(name: str) -> None:
    engine = object()
    own, named = Component(name), Component(name, {"path": "there"})
    assert is_own_judge(own) and not is_own_judge(named)
    bound, same = judged_by([own, named], engine)
    assert bound.settings["engine"] is engine and same is named
    assert own.settings == {}, "the settings of the recipe stay as they are"


def test_other_rewards_stay_as_they_are() -> None:
    rewards = [Component("task"), Component("f", function=len), Component("reward_model")]
    assert not any(map(is_own_judge, rewards)) and judged_by(rewards, object()) == rewards
    served = Component("rubric", {"endpoint": {"url": "http://x/v1", "model": "m"}})
    assert not is_own_judge(served)


def test_a_model_that_is_not_there_judges_nothing() -> None:
    with pytest.raises(RuntimeError):
        EngineAhead().score([])
    with pytest.raises(RuntimeError):
        EngineAhead().generate([])
