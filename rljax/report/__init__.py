"""What a person sees of runs: the terminal, statistics, pictures."""
