"""Loops that execute several of their steps at a time: faster, except to compile."""

import jax


def unrolled(steps: int) -> int:
    """The steps that a loop executes at a time: `steps`, or one if JAX is to compile quickly."""
    return 1 if compiles_quickly() else steps


def compiles_quickly() -> bool:
    """True if programs are to compile quickly instead of running fast (`JAX_DISABLE_MOST_OPTIMIZATIONS`)."""
    return bool(jax.config.read("jax_disable_most_optimizations"))
