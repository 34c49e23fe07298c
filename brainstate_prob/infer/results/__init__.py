"""What a fit holds, and what follows from it: draws, tables, predictions, scores, files, plots."""
