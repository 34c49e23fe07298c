"""Data as arrays: over devices, of which precision, with which units and supports."""
