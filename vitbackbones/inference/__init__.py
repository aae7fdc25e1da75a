"""Predicting, and showing and writing what was predicted."""
