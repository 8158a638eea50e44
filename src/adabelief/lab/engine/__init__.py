"""A run from its configuration to its result: what is asked for, its folder, its steps, a command's runs."""
