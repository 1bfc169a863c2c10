"""Episodes: conversations, tool loops and environments as coroutines on one engine."""
