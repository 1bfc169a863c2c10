"""Environments of other libraries, by their protocols: nothing of theirs is imported."""
