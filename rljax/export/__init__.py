"""Policies that leave: files that run without rljax, and without JAX."""
