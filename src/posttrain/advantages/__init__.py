"""Advantage estimators: from rewards to credit. Plain numpy, no torch."""
