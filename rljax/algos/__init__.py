"""The algorithms, a module each."""

from rljax.algos import ppo

__all__ = ["ppo"]
