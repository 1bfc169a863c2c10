"""Programs that nobody has read: run in a sandbox, with limits, and judged from outside."""
