"""How a model sees a row: how surprising it is, how much its prompt helps, whether it is liked."""

from __future__ import annotations

import numpy as np

from posttrain.registry import qualities

Array = np.ndarray


@qualities.register
def perplexity(nats: Array) -> Array:
    """Perplexity of the completion, exp(-1/L sum_t log p(y_t | x, y_<t)). [R] -> [R].

    Of plain text it is over all tokens but the first. Low values are text that the model knows,
    high ones noise or another language (CCNet, arXiv 1911.00359; Marion et al., arXiv 2309.04564,
    hold the middle).
    """
    return np.exp(np.asarray(nats, dtype=np.float64))


@qualities.register
def ifd(nats: Array, nats_alone: Array) -> Array:
    """Instruction-following difficulty, L(y | x) / L(y). [R], [R] -> [R].

    Below 1 the prompt helps to predict the completion. From 1 on it does not, and the two do not
    belong together. Rows of high values below 1 are worth the most (Li et al., arXiv 2308.12032).
    L are mean nats per token over the same tokens of the completion. NaN for plain text, which has
    no prompt.
    """
    conditional, alone = (np.asarray(x, dtype=np.float64) for x in (nats, nats_alone))
    return np.divide(conditional, alone, out=np.full_like(alone, np.nan), where=alone > 0)


@qualities.register
def ask_llm(yes: Array) -> Array:
    """Probability that a model calls the row informative, P(yes) / (P(yes) + P(no)). [R] -> [R].

    The model is asked whether the text holds what a language model should learn from (Ask-LLM,
    Sachdeva et al., arXiv 2402.09668).
    """
    return np.asarray(yes, dtype=np.float64)
