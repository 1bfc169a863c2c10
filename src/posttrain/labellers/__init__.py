"""Labellers of active learning: who says what the label of a row is, and what that costs.

A labeller is a function of its settings under `@labellers.register` that returns a `Labeller`
(`labellers.base`). `posttrain.labellers.ledger` records every question and answer, so that no row
is asked or paid for twice.
"""
