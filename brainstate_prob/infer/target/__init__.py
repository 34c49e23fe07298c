"""What is fitted: how a model and its data become a log density, and what is looked for at the door."""
