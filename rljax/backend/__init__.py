"""How it is fast on a device, and settings of the process."""
