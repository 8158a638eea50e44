"""The element-wise rule for one kind of machine each. They know arrays and numbers, nothing of optimizers."""
