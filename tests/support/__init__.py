"""What tests share: models, fits, runs that are killed."""
