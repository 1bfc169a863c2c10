"""Losses of pairs in plain Python floats, each written from its paper's formula. c, r:
log-ratios; n, m: lengths.
"""

from __future__ import annotations

from math import exp, log, log1p


def s(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def ls(x: float) -> float:
    return -log1p(exp(-x)) if x >= 0 else x - log1p(exp(x))


def f(x: float, kind: str, a: float) -> float:
    return {
        "reverse_kl": lambda: x,
        "forward_kl": lambda: 1 - exp(-x),
        "js": lambda: log(2 * s(x)),
        "alpha": lambda: (exp((a - 1) * x) - 1) / (a - 1),
    }[kind]()


def under(p: dict, kind: str = "reverse_kl", a: float = 0.5) -> dict:
    """The pair with the scores of a divergence in place of its log-ratios."""
    return p | {k: f(p[k], kind, a) for k in "cr"}


def dpo(p: dict, beta: float = 0.1, e: float = 0.0) -> float:
    d = beta * (p["c"] - p["r"])
    return -(1 - e) * ls(d) - e * ls(-d)


def robust_dpo(p: dict, beta: float = 0.1, e: float = 0.1) -> float:
    d = beta * (p["c"] - p["r"])
    return (-(1 - e) * ls(d) + e * ls(-d)) / (1 - 2 * e)


def dpo_norm(p: dict, beta: float = 2.0) -> float:
    return -ls(beta * (p["c"] / p["n"] - p["r"] / p["m"]))


def r_dpo(p: dict, beta: float = 0.1, alpha: float = 0.01) -> float:
    return -ls(beta * (p["c"] - p["r"]) + alpha * (p["n"] - p["m"]))


def dpop(p: dict, beta: float = 0.1, lam: float = 50.0) -> float:
    return -ls(beta * (p["c"] - p["r"] - lam * max(0.0, -p["c"])))


def cal_dpo(p: dict, beta: float = 0.001) -> float:
    return -ls(p["c"] - p["r"]) + (p["c"] - 0.5 / beta) ** 2 + (p["r"] + 0.5 / beta) ** 2


def ipo(p: dict, beta: float = 0.1) -> float:
    return (p["c"] / p["n"] - p["r"] / p["m"] - 0.5 / beta) ** 2


def hinge_dpo(p: dict, beta: float = 0.1) -> float:
    return max(0.0, 1 - beta * (p["c"] - p["r"]))


def exo(p: dict, beta: float = 0.1, e: float = 1e-3) -> float:
    d = beta * (p["c"] - p["r"])
    return s(d) * (ls(d) - log(1 - e)) + s(-d) * (ls(-d) - log(e))


def nca(p: dict, beta: float = 0.1) -> float:
    return -ls(beta * p["c"]) - 0.5 * ls(-beta * p["c"]) - 0.5 * ls(-beta * p["r"])


def bco_pair(p: dict, beta: float = 0.1) -> float:
    return -ls(beta * p["c"]) - ls(-beta * p["r"])


def sppo(p: dict, beta: float = 0.1) -> float:
    return (p["c"] - 0.5 / beta) ** 2 + (p["r"] + 0.5 / beta) ** 2


def apo_zero(p: dict, beta: float = 0.1) -> float:
    return 1 - s(beta * p["c"]) + s(beta * p["r"])


def apo_down(p: dict, beta: float = 0.1) -> float:
    return s(beta * p["c"]) + 1 - s(beta * (p["c"] - p["r"]))


def discopop(p: dict, beta: float = 0.05, tau: float = 0.05) -> float:
    d = beta * (p["c"] - p["r"])
    return (1 - s(d / tau)) * -ls(d) + s(d / tau) * exp(-d)


def npo(p: dict, beta: float = 0.1) -> float:
    return 2 / beta * log1p(exp(beta * p["r"]))


def simpo(p: dict, beta: float = 2.0, gamma: float = 1.0) -> float:
    return -ls(beta * p["chosen"] / p["n"] - beta * p["rejected"] / p["m"] - gamma)


def alphapo(p: dict, beta: float = 2.0, gamma: float = 1.0, alpha: float = 0.25) -> float:
    def reward(mean: float) -> float:
        return beta * (1 - exp(mean) ** -alpha) / alpha

    return -ls(reward(p["chosen"] / p["n"]) - reward(p["rejected"] / p["m"]) - gamma)


def cpo(p: dict, beta: float = 0.1, e: float = 0.0) -> float:
    d = beta * (p["chosen"] - p["rejected"])
    return -(1 - e) * ls(d) - e * ls(-d)


def orpo(p: dict, beta: float = 0.1) -> float:
    a, b = exp(p["chosen"] / p["n"]), exp(p["rejected"] / p["m"])
    return -beta * ls(log(a / (1 - a)) - log(b / (1 - b)))


def chosen_nll(p: dict) -> float:
    return -p["chosen"] / p["n"]
