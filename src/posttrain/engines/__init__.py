"""Engines sample from models and score text. They speak token ids, never text or templates."""
