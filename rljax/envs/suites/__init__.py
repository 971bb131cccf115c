"""Environments of other packages, one file for each suite."""
