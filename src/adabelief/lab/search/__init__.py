"""The search for settings: a space as data, points in it, trials that are runs, workers on one machine or many."""
