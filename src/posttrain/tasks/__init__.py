"""Tasks: one object that gives examples to imitate, a reward to learn from and a metric to be
judged by.
"""
