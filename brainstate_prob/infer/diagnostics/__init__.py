"""Whether draws can be relied on: effective sample sizes, R-hat, k-hat, conflicts of prior and data."""
