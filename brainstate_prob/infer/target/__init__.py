"""What is fitted: the Posterior, and what is checked of a model and its data before anything is fitted."""
