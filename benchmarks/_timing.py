"""Timing two things in one run: calls alternate, medians are compared, so that a noisy machine hits both alike."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import numpy as np


def interleaved(functions: dict[str, Callable], repeats: int = 200) -> dict[str, float]:
    """Median seconds of one call of each, after one call to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for call in functions.values():
        jax.block_until_ready(call())
    for _ in range(repeats):
        for name, call in functions.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(t)) for name, t in times.items()}


def build_seconds(function: Callable, *args) -> tuple[float, float, Callable]:
    """Seconds to trace (and lower), seconds to compile, and the compiled function."""
    began = time.perf_counter()
    lowered = jax.jit(function).lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return traced - began, time.perf_counter() - traced, compiled
