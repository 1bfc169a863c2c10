"""A model that drafts for another, or for itself."""

from __future__ import annotations

from collections.abc import Callable

from posttrain.engines.draft_model import DraftModel
from posttrain.engines.speculation import Speculation
from posttrain.engines.torch import TorchEngine
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sampling

Build = Callable[[str], LanguageModel]
GREEDY = Request((3, 4, 5), Sampling(max_tokens=17, temperature=0.0))


def test_a_model_drafts_for_itself(decoder: Build) -> None:
    model = decoder("llama")
    model.hf.double()
    model.share_trunks()
    drafter = DraftModel(model)
    speculation = Speculation(drafter, num_tokens=3)
    found = TorchEngine(model, speculation=speculation).generate([GREEDY])
    assert found[0][0].ids == TorchEngine(model).generate([GREEDY])[0][0].ids
    assert speculation.num_passes == 4 and speculation.num_accepted == speculation.num_drafted
    # A prompt of 3, then of each draft's text the newest token and what the draft did not compute.
    stats = drafter.engine.stats
    assert stats.computed_tokens < 3 + 4 * 3 and stats.reused_tokens > stats.computed_tokens


def test_texts_that_fill_the_context_get_no_draft(decoder: Build) -> None:
    drafter = DraftModel(decoder("llama"))
    full = tuple(range(96))
    drafts = drafter([full, (3, 4), (3, 4, 5)], [4, 0, 2])
    assert [len(draft) for draft in drafts] == [0, 0, 2]
