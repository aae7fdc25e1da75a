"""What a model gets right and wrong on a test set: figures from plain arrays, and their report."""
