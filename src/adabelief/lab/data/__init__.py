"""What the tasks learn from: images, texts and sentence pairs, from files or from the hub."""
