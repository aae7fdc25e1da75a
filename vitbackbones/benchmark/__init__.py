"""Measuring networks: operations, time, memory, and the tables and plots that show them."""
