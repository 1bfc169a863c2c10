"""In context: demonstrations before a question, and documents that an answer is read from.

Three kinds of short functions, each under its decorator, and `pt.icl` that joins them:

    @selections.register      which rows of a pool are shown before a question
    @orders.register          in which order
    @calibrations.register    how the probabilities of labels are corrected

The names of their positional parameters are inputs (`posttrain.inputs`), their keyword-only
parameters are settings. Labels are scored in token forests (`label_scores`), where questions share
their demonstrations and labels share their question.
"""
