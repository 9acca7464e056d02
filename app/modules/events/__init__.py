"""Events: deduplicated, in a feed that never skips."""
