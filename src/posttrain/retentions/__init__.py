"""Methods against forgetting over a sequence of trainings, any of which joins any plan.

A retention method is a function of its settings, under `@retentions.register`, that returns a
`Retention`: what is done before, during and after each stage. It changes the stage's plan (rows of
earlier stages beside its own, a term of the loss, a rule for the gradient) or the weights that the
stage leaves. `posttrain.loops.continual` runs the stages.
"""
