"""What is wrong with pictures and annotations, and training that stops at it."""
