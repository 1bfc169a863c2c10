"""Selectors of active learning: which rows of a pool are worth a label.

A selector is a function under `@selectors.register`. Its positional parameters are inputs
(`posttrain.inputs.SELECTOR_INPUTS`), its keyword-only parameters are its settings. It returns the
places of at most `num` candidates, the best first. One that chooses pairs of completions is
declared with selects="pair" and returns [num, 3]: candidate, better and worse completion.
`posttrain.loops.active` computes the inputs that a selector asks for, and no others.
"""
