"""What a training step takes before it is run: memory, work, and the time that this makes."""
