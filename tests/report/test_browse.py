"""What the page's browsers show: equal completions once, the choice of a search, clipped texts."""

from __future__ import annotations

from posttrain.report.browse import MAX_TURNS, browsable_groups, same_problems
from posttrain.report.records import Call, Completion, Group, Measured, Problem, Said, TurnRecord


def measured(*problems: Problem, **values: object) -> Measured:
    return Measured("t", len(problems), 4, {}, {}, problems, **values)  # type: ignore[arg-type]


def test_equal_completions_are_one_entry_with_a_count() -> None:
    completions = (
        Completion("4", 1.0, {"task": 1.0}, 0.5, 2, "stop"),
        Completion("5", 0.0, {"task": 0.0}, -0.5, 2, "stop"),
        Completion("4", 1.0, {"task": 1.0}, 0.5, 2, "stop"),
        Completion("4", 1.0, {"task": 1.0}, 0.5, 2, "length"),
    )
    (group,) = browsable_groups([Group(3, "a", "2+2", "4", completions)])
    entries = [(c["text"], c["stop"], c["count"]) for c in group["completions"]]
    assert entries == [("4", "stop", 2), ("5", "stop", 1), ("4", "length", 1)]
    assert group["num_completions"] == 4
    assert [c["mark"] for c in group["completions"]] == ["right", "wrong", "right"]


def test_a_stage_says_how_many_samples_its_texts_stand_for() -> None:
    problem = Problem("a", "2+2", "4", (1, 0, 0, 0, 1, 1), ("4", "5", "5", "6"))
    (values,) = same_problems([("base", measured(problem))])
    (stage,) = values["stages"]
    assert (stage["right"], stage["samples"]) == (3, 6)
    counts = [(t["text"], t["mark"], t["count"]) for t in stage["texts"]]
    assert counts == [("4", "right", 1), ("5", "wrong", 2), ("6", "wrong", 1)]


def test_the_choice_of_a_search_is_marked() -> None:
    problem = Problem("a", "2+2", "4", (1,), ("4", "5", "4", "6"))
    search = {"search": "majority_vote", "search_settings": {"num_samples": 8}}
    (values,) = same_problems([("vote", measured(problem, **search))])
    (stage,) = values["stages"]
    assert stage["candidates"] == 8
    texts = [(t["text"], t["chosen"], t["mark"], t["count"]) for t in stage["texts"]]
    assert texts == [("4", True, "right", 1), ("5", False, "", 1), ("6", False, "", 1)]


def test_preference_rows_are_marked_by_their_role() -> None:
    pair = (Completion("yes", role="chosen"), Completion("no", role="rejected"))
    (group,) = browsable_groups([Group(None, "", "q", None, pair)])
    assert [c["mark"] for c in group["completions"]] == ["chosen", "rejected"]


def test_episodes_have_their_turns() -> None:
    def episode(reply: str, num: int = 2) -> Completion:
        first = TurnRecord(
            (Said("user", "q"),), "call", (Call("add", "{}", None, "no"), Call("add", "{}", "3"))
        )
        rest = [TurnRecord((Said("tool", reply),), "end", (), 1.0, 4, False, True)] * (num - 1)
        return Completion("end", 1.0, finish_reason="stop", turns=(first, *rest), stop_reason="x")

    group = Group(1, "", "q", None, (episode("3"), episode("4"), episode("3"), episode("3", 60)))
    (values,) = browsable_groups([group])
    one, other, long = values["completions"]
    assert one["count"] == 2 and other["count"] == 1  # they differ in what a tool said
    assert one["stop"] == "x"
    first, last = one["turns"]
    assert first["messages"] == [{"role": "user", "text": "q"}]
    outcomes = [(c["result"], c["error"]) for c in first["calls"]]
    assert outcomes == [(None, "no"), ("3", None)]
    assert (last["place"], last["reward"], last["trained"], last["branch"]) == (2, 1.0, False, True)
    places = [turn["place"] for turn in long["turns"]]
    assert len(places) == MAX_TURNS and places[0] == 1 and places[-1] == 60
    assert values["num_completions"] == 4


def test_a_single_completion_has_no_turns() -> None:
    group = Group(1, "", "q", None, (Completion("a", 1.0, finish_reason="length"),))
    (values,) = browsable_groups([group])
    assert values["completions"][0]["turns"] is None
    assert values["completions"][0]["stop"] == "length"
