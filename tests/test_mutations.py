"""The list of faults to plant is up to date with the package."""

import mutations


def test_every_fault_has_one_place():
    """`faults` stops otherwise; planting them takes an hour."""
    assert len(mutations.faults([])) > 800
