"""How long computations run: starts, chains, members, checkpoints, progress."""
