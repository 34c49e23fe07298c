"""Diagnostics of draws: effective sample sizes, R-hat, k-hat, conflicts of prior and data."""
