"""vLLM's engine. side_vllm.py FOLDER PRECISION -> one line of JSON, the last."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engine_work import CASES, NEW_TOKENS, PROMPT_TOKENS, prompts_of, timed

if __name__ == "__main__":
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    _, folder, precision = sys.argv
    model = LLM(
        model=f"{folder}/model",
        dtype={"fp32": "float32", "bf16": "bfloat16"}[precision],
        enforce_eager=True,
        max_model_len=PROMPT_TOKENS + NEW_TOKENS,
        max_num_seqs=64,
        disable_log_stats=True,
    )
    vocabulary = json.loads(Path(folder, "model", "config.json").read_text())["vocab_size"]

    def run(case: str, trial: int) -> None:
        """Every sample has all of its tokens; the prompts of two trials differ."""
        prompts = prompts_of(case, vocabulary, trial)
        wanted = SamplingParams(
            n=64 if case == "shared" else 1,
            max_tokens=NEW_TOKENS,
            ignore_eos=True,
            temperature=1.0,
            detokenize=False,
            logprobs=0,  # posttrain's engine returns the log-probs of sampled tokens too
        )
        given = [{"prompt_token_ids": list(ids)} for ids in prompts]
        outputs = model.generate(given, wanted, use_tqdm=False)
        assert all(
            len(sample.token_ids) == NEW_TOKENS for output in outputs for sample in output.outputs
        )

    print("\n" + json.dumps({case: timed(lambda t, c=case: run(c, t)) for case in CASES}))
