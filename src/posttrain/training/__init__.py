"""One loop for every method: source, objective, optimiser, hooks."""
