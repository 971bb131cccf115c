"""Fast operations on devices, and settings of the process."""
