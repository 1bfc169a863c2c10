"""The inputs of losses, advantages, searches and quality measures: name, shape, meaning, producer.

A positional parameter of such a function must be one of these names. The registries take their
vocabularies from here, and `posttrain explain` prints these lines. Nothing here imports torch.

Shapes: M targets (the trained tokens of all sequences of a micro-batch, in one flat row), S
sequences, Q trees (pairs, or the completions of one prompt), V vocabulary entries, P prompts,
G completions of each prompt, T tokens of one completion, F reward functions, R rows, D numbers of
an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Input:
    """A value that a function can ask for by the name of a positional parameter.

    Attributes:
        shape: such as "[M]"; "" for what is not an array.
        producer: what computes or carries it, such as "model" or "rollouts".
    """

    name: str
    shape: str
    meaning: str
    producer: str


def _table(*rows: tuple[str, str, str, str]) -> dict[str, Input]:
    return {row[0]: Input(*row) for row in rows}


_MODEL = "model"
_REFERENCE = "frozen reference"
_BOTH = "model and frozen reference"
_TEACHER = "teacher"
_SCORES = "score model"
_BATCH = "batch"
_ROLLOUTS = "rollouts"
_ROWS = "columns of the rows"

LOSS_INPUTS: dict[str, Input] = _table(
    # -- per target
    ("logprobs", "[M]", "log-prob of each target, nats, with gradient", _MODEL),
    ("entropy", "[M]", "entropy of the next-token distribution, nats, with gradient", _MODEL),
    ("log_collision", "[M]", "log sum_v pi_v^2, nats, without gradient", _MODEL),
    ("old_logprobs", "[M]", "log-probs before the first update of the step", _ROLLOUTS),
    ("engine_logprobs", "[M]", "log-probs that the engine reported when it sampled", _ROLLOUTS),
    ("ref_logprobs", "[M]", "log-probs under the frozen reference", _REFERENCE),
    ("forward_kl", "[M]", "KL(ref || pi) over the vocabulary, nats, with gradient", _BOTH),
    ("reverse_kl", "[M]", "KL(pi || ref) over the vocabulary, nats, with gradient", _BOTH),
    ("teacher_logprobs", "[M]", "log-probs under the teacher", _TEACHER),
    ("advantages", "[M]", "advantage of each token", "rollouts, or offline rewards"),
    ("scores", "[M]", "logit of the score head at each target, with gradient", _SCORES),
    ("values", "[M]", "the critic's value of the state before each target", "critic"),
    ("old_values", "[M]", "the critic's values before the first update of the step", _ROLLOUTS),
    ("returns", "[M]", "return from each token on: what a critic learns", _ROLLOUTS),
    ("labels", "[M]", "label of each scored token: 0 to 1", "labelled rows of a score model"),
    ("entropy_weight", "[M]", "weight of the entropy bonus, steered to its target", _ROLLOUTS),
    ("retention_weight", "[M]", "weight of keeping near the stage before", "retention cppo"),
    ("reward_variance", "[M]", "variance of the rewards of the completion's group", _ROLLOUTS),
    ("step", "[M]", "index of the completion's step that the token is in, from 0", _ROWS),
    ("given", "[M]", "1 where the token was in the data, 0 where it was sampled", _ROLLOUTS),
    ("class_logits", "[M, C]", "logit of each class at each target, with gradient", "classifier"),
    ("target", "[M]", "token id of each target", _BATCH),
    ("sequence", "[M]", "index of the sequence of each target", _BATCH),
    # -- whole distributions, in chunks of targets
    ("distribution", "[M, V]", "log-probs of the whole vocabulary, with gradient", _MODEL),
    ("ref_distribution", "[M, V]", "the same under the frozen reference", _REFERENCE),
    ("teacher_distribution", "[M, V]", "the same under the teacher", _TEACHER),
    ("foreign_distribution", "[M, V']", "the same under a teacher with other tokens", _TEACHER),
    ("aligned", "[M]", "1 where the foreign teacher has a token for the target", _TEACHER),
    # -- per sequence
    ("num_sequences", "", "the number S of sequences in the micro-batch", _BATCH),
    ("logprob", "[S]", "log-prob of the completion, nats, with gradient", _MODEL),
    ("ref_logprob", "[S]", "log-prob of the completion under the reference", _REFERENCE),
    ("old_logprob", "[S]", "log-prob of the completion before the first update", _ROLLOUTS),
    ("engine_logprob", "[S]", "log-prob of the completion that the engine reported", _ROLLOUTS),
    ("length", "[S]", "number of targets", _BATCH),
    ("score", "[S]", "logit of the score head at the last target, with gradient", _SCORES),
    ("reward", "[S]", "reward of the completion", "rollouts, or a column of the rows"),
    ("completion_length", "[S]", "tokens of the completion", "rows of a score model"),
    ("label", "[S]", "1 desirable, 0 undesirable, or a probability", _ROWS),
    ("class_index", "[S]", "index of the class of the text", _ROWS),
    ("group", "[S]", "index of the prompt that the completion answers", _BATCH),
    ("kl", "[S]", "estimate of KL(pi || ref) over the step, the same for all", "labelled rows"),
    ("shift", "[S]", "middle of both labels' mean log-ratios, the same for all", "labelled rows"),
    # -- per pair
    ("chosen", "[Q]", "log-prob of the chosen completion, nats, with gradient", _MODEL),
    ("ref_chosen", "[Q]", "log-prob of the chosen completion under the reference", _REFERENCE),
    ("chosen_length", "[Q]", "number of targets of the chosen completion", _BATCH),
    ("chosen_score", "[Q]", "score of the chosen completion, with gradient", _SCORES),
    ("chosen_forward_kl", "[Q]", "forward_kl summed over the chosen completion", _BOTH),
    ("rejected", "[Q]", "log-prob of the rejected completion, nats, with gradient", _MODEL),
    ("ref_rejected", "[Q]", "log-prob of the rejected completion under the reference", _REFERENCE),
    ("rejected_length", "[Q]", "number of targets of the rejected completion", _BATCH),
    ("rejected_score", "[Q]", "score of the rejected completion, with gradient", _SCORES),
    ("rejected_forward_kl", "[Q]", "forward_kl summed over the rejected completion", _BOTH),
    ("gold", "[Q]", "log-prob of the reference text of a triple, with gradient", _MODEL),
    ("ref_gold", "[Q]", "log-prob of the reference text under the reference", _REFERENCE),
    ("gold_length", "[Q]", "number of targets of the reference text", _BATCH),
    ("margin", "[Q]", "how far apart the two completions are; 0 where not given", _ROWS),
    ("probability", "[Q]", "probability that the chosen completion is better", _ROWS),
)

ADVANTAGE_INPUTS: dict[str, Input] = _table(
    ("rewards", "[P, G]", "reward of each completion; NaN where it has none", _ROLLOUTS),
    ("greedy_rewards", "[P]", "reward of one completion sampled at temperature 0", _ROLLOUTS),
    ("lengths", "[P, G]", "number of tokens of each completion", _ROLLOUTS),
    ("reward_table", "[P, G, F]", "value of each reward function; NaN where none", _ROLLOUTS),
    ("reward_weights", "[F]", "weight of each reward function", "recipe"),
    ("baseline", "", "the estimator's own state, NaN at first; saved in checkpoints", "estimator"),
    ("token_rewards", "[P][G] of [T]", "reward earned with each token; NaN means none", _ROLLOUTS),
    ("values", "[P][G] of [T]", "value of the state before each token", "critic"),
    ("turn_rewards", "[P][G] of [K]", "reward earned with each turn; NaN means none", _ROLLOUTS),
    ("turns", "[P][G] of [T]", "number of the turn that each token belongs to", _ROLLOUTS),
    ("states", "[P][G] of [K]", "number of what a turn answers; equal means equal", _ROLLOUTS),
    ("contexts", "[P][G] of [K]", "number of a turn's whole context", _ROLLOUTS),
)

QUALITY_INPUTS: dict[str, Input] = _table(
    ("texts", "[R]", "the whole text of each row", "rows"),
    ("prompts", "[R]", "the prompt of each row as text, empty where there is none", "rows"),
    ("completions", "[R]", "the completion, or the plain text, of each row", "rows"),
    ("num_tokens", "[R]", "tokens of each row", "tokenizer, or words and signs without one"),
    ("nats", "[R]", "mean nats per token of the completion after its prompt", _MODEL),
    ("nats_alone", "[R]", "the same without the prompt; NaN for plain text", _MODEL),
    ("yes", "[R]", "probability of yes against no to whether the row is informative", _MODEL),
    ("vectors", "[R, D]", "embeddings of length 1", "embeddings"),
)
"""What measures of rows can ask for; R rows."""

SEARCH_INPUTS: dict[str, Input] = _table(
    ("prompt", "[T]", "the prompt, as token ids", "task"),
    ("ask", "", "coroutine: token ids, n -> n sampled candidates behind them", "engine"),
    ("extract", "", "function: completion -> its final answer, or None", "task"),
    ("score", "", "coroutine: candidates, whole or in part -> one number each", "scorer"),
    ("value", "", "coroutine: states, as token ids -> one number each", "critic"),
    ("decode", "", "function: token ids -> text", "tokenizer"),
    ("encode", "", "function: text -> token ids to put behind others", "tokenizer"),
    ("problem", "", "the prompt before it was encoded: text or messages", "task"),
    ("render", "", "function: text or messages -> token ids of a prompt", "tokenizer"),
    (
        "amateur",
        "",
        "coroutine: token ids, next ids -> log-probs by a weaker model",
        "amateur",
    ),
)

_SHOTS = "demonstrations"
SELECTION_INPUTS: dict[str, Input] = _table(
    ("pool", "[N]", "rows to choose from, with .text and .label", _SHOTS),
    ("queries", "[Q]", "texts of the questions", "rows"),
    ("num_shots", "", "demonstrations before a question", "setting of pt.icl"),
    ("draw", "", "numpy.random.Generator of the seed", "seed"),
    ("vectors", "", "function: texts, features -> unit vectors [B, D]", "features"),
)
ORDER_INPUTS: dict[str, Input] = _table(
    ("shots", "[k]", "the demonstrations as selected, with .text and .label", "selection"),
    ("text", "", "text of the question; an order without it is made once for all", "rows"),
    ("predict", "", "function: orders, texts -> probabilities [orders, texts, labels]", _MODEL),
    ("probes", "", "function: number -> texts to be labelled, whose labels are unread", _SHOTS),
    ("written", "", "function: orders, number -> texts that the model writes below them", _MODEL),
    ("draw", "", "numpy.random.Generator of the seed", "seed"),
    ("vectors", "", "function: texts, features -> unit vectors [B, D]", "features"),
)
CALIBRATION_INPUTS: dict[str, Input] = _table(
    ("logprobs", "[Q, C]", "log-probs of the labels of each question, nats", _MODEL),
    ("blank", "", "function: texts -> log-probs [Q, texts, C] in place of the question", _MODEL),
    ("pool", "[N]", "rows of the demonstrations, with .text and .label", _SHOTS),
    ("draw", "", "numpy.random.Generator of the seed", "seed"),
)

_POOL = "pool"
_SELECTION = "loop"
_SMALL = "classifier"
_LM = "language model"
_ADVISER = "adviser"

SELECTOR_INPUTS: dict[str, Input] = _table(
    ("num", "", "how many rows to choose", _SELECTION),
    ("num_candidates", "", "the number P of candidates", _SELECTION),
    ("num_completions", "", "the number G of completions of each candidate", _POOL),
    ("rng", "", "generator of random numbers, a function of seed and round", _SELECTION),
    ("texts", "[P]", "the candidates as text", _POOL),
    ("probabilities", "[P, C]", "probability of each class", _SMALL),
    ("labelled_probabilities", "[L, C]", "the same of the labelled rows", _SMALL),
    ("committee", "[K, P, C]", "the same of each member of a committee", _SMALL),
    ("embeddings", "[P, D]", "vector of each candidate", "model"),
    ("labelled_embeddings", "[L, D]", "vector of each labelled row", "model"),
    ("labelled_classes", "[L]", "index of the class of each labelled row", _POOL),
    ("token_entropies", "[P] of [T]", "entropy of each token of a completion, nats", _LM),
    ("completion_logprobs", "[P] of [T]", "log-prob of each token of a completion, nats", _LM),
    ("prompt_entropies", "[P]", "mean -log p of sampled completions, nats per token", _LM),
    ("perplexities", "[P]", "perplexity of each candidate's text", _LM),
    ("answers", "[P] of [S]", "answers that were sampled", _LM),
    ("grades", "[P, S]", "the task's grade of each sample", _LM),
    ("gradients", "[P, F]", "projected gradient of each candidate's loss", _LM),
    ("target_gradients", "[V, F]", "the same of the rows that are to be learnt", _LM),
    ("ensemble_rewards", "[P, G, E]", "reward of each completion by each model", "reward models"),
    ("ask", "", "function: questions -> answers", _ADVISER),
    ("yes_probability", "", "function: questions -> P(yes) of each", _ADVISER),
)


INDICES = ("step", "target", "sequence", "group", "class_index")
"""Inputs that are whole numbers: indices and token ids."""

# -- what a number per sequence or per pair is computed from

SUMS = {
    "logprob": "logprobs",
    "ref_logprob": "ref_logprobs",
    "old_logprob": "old_logprobs",
    "engine_logprob": "engine_logprobs",
}
"""Inputs per sequence that are sums of an input per target."""

OF_ROLE = {
    "{}": "logprob",
    "ref_{}": "ref_logprob",
    "{}_length": "length",
    "{}_score": "score",
    "{}_forward_kl": "forward_kl",
}
"""Form of an input per role, such as ref_chosen, and the number per sequence that it is."""


def base_of(name: str, roles: tuple[str, ...]) -> str | None:
    """The input per target from which a number per sequence or role is computed.

    Returns:
        None where the input is not computed from one.
    """
    return {**SUMS, "score": "scores", "forward_kl": "forward_kl"}.get(_of_sequence(name, roles))


def _of_sequence(name: str, roles: tuple[str, ...]) -> str:
    """The number per sequence of which an input per role is one: chosen -> logprob."""
    for role in roles:
        for form, whole in OF_ROLE.items():
            if form.format(role) == name:
                return whole
    return name


# -- who carries what

BATCH = frozenset({"target", "sequence", "num_sequences", "length", "group"})
"""Carried by every batch."""

LANGUAGE_MODEL = frozenset(
    {
        "logprobs",
        "entropy",
        "log_collision",
        "distribution",
        "ref_logprobs",
        "ref_distribution",
        "forward_kl",
        "reverse_kl",
    }
)
"""Computed by a language model and its frozen reference."""

SCORE_MODEL = frozenset({"scores", "values"})
"""Computed by a score model or a critic."""

TEACHER = frozenset({"teacher_logprobs", "teacher_distribution", "foreign_distribution", "aligned"})
"""Computed by a teacher."""

IMITATED = frozenset[str]()
"""Carried by rows to imitate: their tokens, and nothing else."""

PAIRS = frozenset({"margin"})
"""Carried by rows of a chosen and a rejected completion."""

TRIPLES = PAIRS | {"gold", "ref_gold", "gold_length"}
"""The same, with a reference text beside the two completions."""

LABELLED = frozenset({"label", "kl", "shift"})
"""Carried by completions that are desirable or not."""

LISTS = frozenset({"reward"})
"""Carried by several rewarded completions of one prompt."""

ROLLOUTS = frozenset(
    {
        "old_logprobs",
        "engine_logprobs",
        "advantages",
        "returns",
        "old_values",
        "values",
        "entropy_weight",
        "reward_variance",
        "reward",
        "given",
    }
)
"""Carried by sampled completions with credit."""

SAMPLED_PAIRS = frozenset[str]()
"""Carried by pairs that the policy samples: their tokens, and nothing else."""

OFFLINE_REWARDS = frozenset({"advantages", "old_logprobs", "reward", "step", "values"})
"""Carried by completions that were rewarded before the run, with a critic where there is one."""

SCORES = frozenset(
    {"scores", "label", "labels", "reward", "margin", "probability", "completion_length"}
)
"""Carried by the rows of a score model, whatever their format, and computed by that model."""

CLASSES = frozenset({"class_logits", "class_index"})
"""Carried by texts with a class, and computed by a classifier."""


def missing_inputs(
    needs: Iterable[str], carries: frozenset[str], roles: tuple[str, ...] = ()
) -> list[str]:
    """Inputs that neither the batch, nor a language model, nor the source provides, sorted.

    Args:
        needs: names that losses ask for. carries: see the sets above. roles: of the sequences of a
            tree, such as ("chosen", "rejected").
    """
    provided = BATCH | LANGUAGE_MODEL | carries
    return sorted(
        name
        for name in needs
        if name not in provided
        and base_of(name, roles) not in provided
        and _of_sequence(name, roles) not in provided
    )
