"""Outer loops: `for` statements over `fit` and `evaluate`. Each file registers a method."""
