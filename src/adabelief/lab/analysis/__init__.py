"""Runs read back, the experiments that they make up, and what their numbers are."""
