"""What is wrong with images and annotations, and training that stops at it."""
