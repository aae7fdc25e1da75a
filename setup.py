"""For tools that look for this file; the distribution is described in pyproject.toml."""

from setuptools import setup

setup()
