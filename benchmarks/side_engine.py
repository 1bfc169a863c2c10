"""posttrain's engine. side_engine.py FOLDER PRECISION -> one line of JSON, the last."""

from __future__ import annotations

import functools
import json
import sys

from engine_work import CASES, NEW_TOKENS, prompts_of, timed

if __name__ == "__main__":
    from posttrain import kernels
    from posttrain.engines.torch import TorchEngine
    from posttrain.models.load import load_model
    from posttrain.types import Request, Sampling

    kernels.setup()  # as the command line does
    _, folder, precision = sys.argv
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    model = load_model(f"{folder}/model", dtype=dtype)
    model.hf.generation_config.eos_token_id = None
    model.tokenizer.eos_token = None
    vocabulary = model.hf.config.vocab_size
    sampling = Sampling(max_tokens=NEW_TOKENS)

    def run(case: str, trial: int) -> None:
        """Every sample has all of its tokens; the prompts of two trials differ."""
        engine = TorchEngine(model)  # nothing is cached from the trial before
        prompts = prompts_of(case, vocabulary, trial)
        samples = 64 if case == "shared" else 1
        groups = engine.generate(
            [Request(ids, sampling, n=samples, seed=i) for i, ids in enumerate(prompts)]
        )
        assert all(len(sample.ids) == NEW_TOKENS for group in groups for sample in group)

    seconds = {case: timed(functools.partial(run, case)) for case in CASES}
    print("\n" + json.dumps(seconds))
