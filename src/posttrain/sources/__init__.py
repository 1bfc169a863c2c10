"""Completions of the current policy with their rewards and credit."""
