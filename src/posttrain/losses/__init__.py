"""Losses: pure functions of per-target tensors. They never average; `reduce.py` alone does."""
