"""What the tasks train and measure with: networks, agents, functions, the Fréchet distance."""
