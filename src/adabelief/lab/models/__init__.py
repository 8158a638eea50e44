"""The networks of the tasks: one file a kind."""
