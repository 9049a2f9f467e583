"""Generated series of many kinds, similar to series of sensors, shops and machines."""

from __future__ import annotations

import numpy as np

from forecaster.arrays import Floats

MOVING = ("noise", "day", "heavy_tails", "walk", "drift", "bursts", "counts", "steps", "solar", "shop")
"""Kinds that change so often that they must raise at least two thirds of the configured number of alarms."""


def kinds(windows: int, seed: int = 0) -> dict[str, Floats]:
    """Return an hourly series ``[windows]`` for each kind, by name; equal seeds give equal series."""
    rng = np.random.default_rng(seed)
    at = np.arange(windows)
    hour, noise = at % 24, rng.normal(size=windows)
    day = np.sin(2 * np.pi * at / 24)
    level = np.repeat(rng.normal(0, 30, windows // 250 + 1), 250)[:windows]
    spread = np.repeat(np.exp(rng.normal(0, 1.5, windows // 400 + 1)), 400)[:windows]
    busy = np.repeat(rng.random(windows // 12 + 1) < 0.03, 12)[:windows]
    on = np.repeat(rng.random(windows // 100 + 1) < 0.5, 100)[:windows]
    turned = np.where(rng.random(windows) < 0.02, at, 0)
    spiked = np.where(rng.random(windows) < 0.01, 20.0, 0.0)
    once = np.ones(windows)
    once[windows // 3] = 1e6
    hung = rng.normal(size=windows)
    hung[windows // 2 :] = hung[windows // 2]
    sun = np.maximum(0.0, 10 * np.sin(np.pi * (hour - 6) / 12))
    return {
        "constant": np.full(windows, 7.25),
        "zero": np.zeros(windows),
        "one_spike": once,
        "stuck_for_ever": hung,
        "noise": noise,
        "day": 50 + 8 * day + noise,
        "heavy_tails": rng.standard_t(2, windows),
        "walk": noise.cumsum(),
        "drift": 0.05 * at + 3 * day + noise,
        "rare_events": np.where(rng.random(windows) < 0.005, rng.exponential(1, windows), 0.0),
        "rain": np.where(rng.random(windows) < 0.05, np.round(rng.exponential(1, windows), 2), 0.0),
        "bursts": rng.poisson(np.where(busy, 30, 0.5)).astype(float),
        "counts": rng.negative_binomial(0.3, 0.05, windows).astype(float),
        "spreads": spread * noise,
        "regimes": level + spread * noise,
        "steps": level + noise,
        "steps_without_noise": level,
        "spikes": spiked + noise,
        "on_and_off": np.where(on, 5 + noise, 0.0),
        "solar": np.round(sun * rng.uniform(0.5, 1, windows), 3),
        "shop": np.where((hour >= 9) & (hour <= 19), rng.integers(0, 10, windows), 0).astype(float),
        "valve": (rng.integers(0, 21, windows) * 5.0)[np.maximum.accumulate(turned)],
        "two_values": (rng.random(windows) < 0.3).astype(float),
    }
