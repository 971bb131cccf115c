"""Reports of runs: terminal output, statistics, plots, files."""
