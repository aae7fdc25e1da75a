"""What is installed, and what breaks; needs nothing but the standard library."""
