"""Results of a fit: draws, tables, predictions, scores, files, plots."""
