"""Credit: pure functions from rewards to advantages.

The inputs of an estimator are `posttrain.inputs.ADVANTAGE_INPUTS`, for a step with P prompts of G
completions each. Where prompts have different numbers of completions, G is the largest, and NaN
fills the rows of the others. It returns advantages [P, G], or nested lists [P][G] of arrays [T]
(one per token), or advantages with the next `baseline`.

A completion without a reward (NaN) gets advantage 0, and no mean counts it.
"""
