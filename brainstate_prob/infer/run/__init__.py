"""Long runs: initial points, chains, members, checkpoints and progress."""
