"""Configs that are written for somebody: another backbone in any config, and one's own data."""
