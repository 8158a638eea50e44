"""A fair comparison: the same search for every arm, then fresh seeds for what it picked, by one plan."""
