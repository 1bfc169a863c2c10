"""posttrain: from base model to reasoner."""

__version__ = "0.1.0"
