"""Monte Carlo tree search over steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection
from posttrain.search.scores import number_of
from posttrain.search.steps import Steps, at_least

_BASE = 19652  # of the growth of PUCT's exploration (arXiv 1712.01815)


@dataclass(slots=True, eq=False)
class Node:
    """A path in a tree.

    prior: share of its siblings' samples. visits: simulations that went through it. total: sum of
    their values. is_open: whether anything below it is left to sample.
    """

    path: Candidate
    prior: float = 1.0
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    is_open: bool = True

    @property
    def mean(self) -> float:
        """The mean value of its simulations."""
        return self.total / max(self.visits, 1)

    def backed_up(self, value: float) -> None:
        """Count a simulation's value here and in all nodes above."""
        node: Node | None = self
        while node is not None:
            node.visits += 1
            node.total += value
            if node.children:
                node.is_open = any(child.is_open for child in node.children)
            node = node.parent

    def below(self) -> Iterator[Node]:
        """This node and all below it, in depth-first order."""
        yield self
        for child in self.children:
            yield from child.below()


Rule = Callable[[Node, Node, float], float]
"""parent, child, value of the child -> what a selection maximises."""


def uct(exploration: float) -> Rule:
    """Q + c sqrt(ln N_parent / max(1, N)) (Kocsis and Szepesvari, 2006)."""

    def urgency(parent: Node, child: Node, value: float) -> float:
        spread = math.log(max(parent.visits, 1)) / max(child.visits, 1)
        return value + exploration * math.sqrt(spread)

    return urgency


def puct(exploration: float) -> Rule:
    """Q + c P sqrt(N_parent) / (1 + N), c = exploration + ln((N_parent + 19653) / 19652) (arXiv
    1712.01815).
    """

    def urgency(parent: Node, child: Node, value: float) -> float:
        factor = exploration + math.log((parent.visits + _BASE + 1) / _BASE)
        return value + factor * child.prior * math.sqrt(parent.visits) / (1 + child.visits)

    return urgency


def descended(root: Node, rule: Rule, unvisited: Callable[[Node, Node], float]) -> Node:
    """The node without children that the rule leads to, past whatever is sampled to its end.

    unvisited: parent, child -> the value of a child without visits. Ties go to the first.
    """
    node = root
    while node.children:
        parent = node
        options = [child for child in parent.children if child.is_open]
        node = max(
            options,
            key=lambda c: rule(parent, c, c.mean if c.visits else unvisited(parent, c)),
        )
    return node


def expanded(node: Node, paths: list[Candidate]) -> list[Node]:
    """Adds continuations to a node: equal texts are one child, whose prior is their share."""
    first: dict[tuple[str, bool, str | None], Node] = {}
    for path in paths:
        key = (path.text, path.ended, path.stop_string)
        child = first.setdefault(key, Node(path, 0.0, node))
        child.prior += 1 / len(paths)
    node.children = list(first.values())
    return node.children


@searches.register
async def mcts(
    prompt,
    ask,
    extract,
    score,
    decode,
    *,
    num_simulations: int = 16,
    num_children: int = 4,
    rule: Literal["uct", "puct"] = "uct",
    exploration: float = 1.0,
    evaluation: Literal["score", "rollout"] = "score",
    separator: str = "\n",
    max_steps: int = 10,
    reserve: float = 0.25,
    choose: Literal["best", "vote", "weighted_vote"] = "best",
) -> Selection:
    """Monte Carlo tree search over steps (arXiv 2305.14992; PUCT: 1712.01815).

        repeat num_simulations times:
            select  from the root, the child with the highest
                        uct:  Q + c sqrt(ln N_parent / max(1, N))
                        puct: Q + c P sqrt(N_parent) / (1 + N), P = share of the samples
            expand  a node that was visited: num_children sampled steps, of equal texts one
            value   of the node: its score, or the score of a rollout to the end
            back up N += 1, Q = mean value, in the node and all above it
        answer: the whole path with the highest score

    A child that has no visits has the value of its score, or with rollouts comes first. What is
    sampled to its end is not selected again, so that enough simulations read the whole tree. A
    search that ends without a whole path completes the best one, for which it keeps a part of its
    budget until it has one. Exploration is in units of the
    score. No score (-inf) counts as the lowest one seen.

    exploration: c; on validation problems values from 0 to 1 did not differ significantly
    (benchmarks/mcts_exploration.py). evaluation: what a simulation is worth. separator: text that
    ends a step. max_steps: the last step runs to the end. reserve: share of the budget's tokens
    that is kept.
    choose: the best score, or a vote of all whole paths.
    """
    at_least("mcts", num_simulations=num_simulations, num_children=num_children)
    if not exploration >= 0:
        raise ConfigError(f"mcts: exploration is {exploration}; it must be at least 0")
    if not 0 <= reserve < 1:
        raise ConfigError(f"mcts: reserve is {reserve}; it must be at least 0 and below 1")
    steps = Steps("mcts", prompt, ask, decode, separator, max_steps)
    tree = _Tree(steps, score, num_children, evaluation == "rollout")
    select_by = (uct if rule == "uct" else puct)(exploration)
    simulations, left = 0, ask.budget.tokens_left
    reserved = reserve * (ask.budget.max_tokens or 0)
    cost = 0.0  # of the last simulation; the next one is expected to cost as much
    while simulations < num_simulations and tree.root.is_open and not ask.budget.is_spent:
        if not tree.num_whole and left - cost <= reserved:
            break
        await tree.simulate(select_by)
        simulations += 1
        cost, left = left - ask.budget.tokens_left, ask.budget.tokens_left
    nodes = list(tree.root.below())
    return steps.chosen(
        await tree.leaves(),
        extract,
        choose,
        num_simulations=simulations,
        num_nodes=len(nodes),
        depth=max(len(node.path.steps) for node in nodes),
    )


class _Tree:
    """A tree that is searched by simulations."""

    def __init__(self, steps: Steps, score, num_children: int, rollouts: bool) -> None:
        self.steps, self.score = steps, score
        self.num_children, self.rollouts = num_children, rollouts
        self.root = Node(steps.root)
        self.lowest: float | None = None
        self.rolled_out: list[Candidate] = []
        self.num_whole = 0  # paths that have come to their end

    async def simulate(self, rule: Rule) -> None:
        """One simulation."""
        node = descended(self.root, rule, self._unvisited)
        if not self.steps.is_done(node.path) and (node.visits or node.parent is None):
            paths = await self.steps.continued(node.path, self.num_children)
            if not self.rollouts:
                paths = await self._scored(paths)
            children = expanded(node, paths)
            self.num_whole += sum(self.steps.is_ended(child.path) for child in children)
            node = max(children, key=lambda c: (number_of(c.path), c.prior))
        value = await self._value(node)
        if self.steps.is_done(node.path):
            node.is_open = False
        node.backed_up(value)

    async def leaves(self) -> list[Candidate]:
        """Whole paths of the tree and of rollouts; where there are none, the best path's end."""
        nodes = list(self.root.below())
        paths = [n.path for n in nodes if self.steps.is_done(n.path)]
        paths = [p for p in [*paths, *self.rolled_out] if self.steps.is_done(p)]
        if not any(map(self.steps.is_ended, paths)) and not self.steps.ask.budget.is_spent:
            path = max(nodes[1:], key=lambda n: (n.mean, number_of(n.path))).path
            whole = await self.steps.continued(path, whole=True)
            paths += await self._scored(whole)
        unscored = [p for p in paths if p.score is None]
        again = iter(await self._scored(unscored))
        paths = [p if p.score is not None else next(again) for p in paths]
        return paths or [n.path for n in nodes[1:]] or [self.root.path]

    async def _value(self, node: Node) -> float:
        path = node.path
        if self.rollouts:
            if not self.steps.is_done(path):
                (path,) = await self.steps.continued(path, whole=True)
            (path,) = await self._scored([path])
            if path.ids == node.path.ids:
                node.path = path
            else:
                self.rolled_out.append(path)
                self.num_whole += self.steps.is_ended(path)
        value = number_of(path)
        return (self.lowest or 0.0) if value == -math.inf else value

    def _unvisited(self, parent: Node, child: Node) -> float:
        if self.rollouts:
            return math.inf
        value = number_of(child.path)
        return (self.lowest or 0.0) if value == -math.inf else value

    async def _scored(self, paths: list[Candidate]) -> list[Candidate]:
        paths = await self.steps.scored(paths, self.score)
        finite = [number_of(p) for p in paths if number_of(p) > -math.inf]
        if finite:
            self.lowest = min([*finite] if self.lowest is None else [self.lowest, *finite])
        return paths
