"""What active learning trains: a learner makes the inputs of selectors, learns from labelled rows,
and is measured on held-out questions.

`classes` trains a text classifier. `language` fine-tunes a language model on completions (written
by people, a task's gold or a teacher: distillation), or puts rows into the prompt. `comparisons`
trains an ensemble of reward models on pairs.
"""
