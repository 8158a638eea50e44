"""The search for settings: a space as data, points in it, trials that are runs, workers on one machine or many."""

SAMPLERS = ("qmc", "tpe", "grid", "random")
"""How points are chosen."""

ENGINES = ("processes", "ray")
"""What workers are."""
