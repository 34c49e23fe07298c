"""Metrics over a stream of batches: update, compute, reset; their accumulators are States, so they work under jit."""

from brainstate_prob.nn.metrics.classes import ConfusionMatrix, F1ScoreMetric, PrecisionMetric, RecallMetric
from brainstate_prob.nn.metrics.stream import (
    AccuracyMetric,
    AverageMetric,
    Metric,
    MetricState,
    MultiMetric,
    Statistics,
    WelfordMetric,
)

__all__ = [
    'AccuracyMetric',
    'AverageMetric',
    'ConfusionMatrix',
    'F1ScoreMetric',
    'Metric',
    'MetricState',
    'MultiMetric',
    'PrecisionMetric',
    'RecallMetric',
    'Statistics',
    'WelfordMetric',
]
