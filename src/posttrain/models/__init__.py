"""Models: loading them, attending over forests, log-probabilities of targets."""
