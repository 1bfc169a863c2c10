"""Measures of rows: one number per row, from its text, a model, or the other rows.

    @qualities.register
    def ifd(nats, nats_alone): ...

Positional parameters are named in `posttrain.inputs.QUALITY_INPUTS`, keyword-only parameters are
settings. A measure gives R numbers; NaN is "cannot be measured". None of them says what is good:
bounds are set where rows are filtered.
"""
