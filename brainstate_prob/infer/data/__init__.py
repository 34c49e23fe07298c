"""Data as arrays: sharding, precision, units and supports."""
