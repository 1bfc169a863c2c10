"""Dynamics models in context (DICL; Benechehab et al., arXiv 2410.11711).

A language model reads a series as digits, and its next-token probabilities are the distribution of
the next value. Nothing is trained on the series.

    number_tokens   the tokens of numbers under a tokenizer: digits, or one token per integer
    hierarchy       a distribution over numbers, refined digit by digit
    grid            a distribution on a regular grid: moments, quantiles, samples
    forecaster      distributions of all next values of a series, and its continuation
    feature_maps    PCA and others between states and the series that are forecast
    trajectory      vICL, DICL-(s), DICL-(s,a)
    baselines       Gaussian of the context, a network trained on the context
    calibration     quantiles of the truth, Kolmogorov-Smirnov, reliability, temperature
    policy_value    values of policies, partly predicted; the multi-branch bound
"""
