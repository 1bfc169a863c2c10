"""Rewards: plain functions with TRL's signature. An exception in one is recorded data, not a
crash and not a zero.
"""
