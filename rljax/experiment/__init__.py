"""Train, save and resume many runs: the host side."""
