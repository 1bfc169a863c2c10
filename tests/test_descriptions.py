from __future__ import annotations

from posttrain.descriptions import descriptions, first_sentence, mentions

DOC = """Adapters.

    r: rank. alpha, beta: scales, of
    both kinds. Not a name: at all.

    Args:
        gamma: discount
            per token.
        other: unknown.

    Returns:
        nothing.
    """


def test_entries_of_both_forms() -> None:
    found = descriptions(DOC, ["r", "alpha", "beta", "gamma", "absent"])
    assert found["r"] == "rank"
    assert found["alpha"] == found["beta"] and found["alpha"].startswith("scales, of both kinds")
    assert found["gamma"].startswith("discount per token")
    assert "absent" not in found
    assert descriptions("Nothing here.", ["r"]) == {} == descriptions(DOC, [])


def test_the_first_sentence_and_mentions() -> None:
    assert first_sentence("share, e.g. 0.1. More.") == "share, e.g. 0.1"
    assert mentions("Draws num rows. Ends.", ["num", "x"]) == {"num": "Draws num rows"}
