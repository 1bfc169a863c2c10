"""Test-time search: more tokens for a better answer."""
