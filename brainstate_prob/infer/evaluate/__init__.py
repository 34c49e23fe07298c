"""Calibration of a way to fit or of its predictions: SBC, conformal prediction, temperature scaling."""
