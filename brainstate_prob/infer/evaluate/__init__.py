"""Calibration of fits and predictions: SBC, conformal prediction, temperature scaling."""
