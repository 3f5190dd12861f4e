"""Features: what the model sees, computed row by row from the inputs that `config/data.yaml` declares.

The very same function runs on the whole table in training and on one row in the service, so the two cannot disagree.
Write NumPy over columns; a row must never look at another row. What is fitted (imputing, scaling, encoding) is in
`model.py`.
"""

from __future__ import annotations

import numpy as np

from .ops.contract import Array, Columns, hour, month, weekday

PASSED_ON = ("carrier", "origin", "dest", "distance", "temp", "dewp", "humid", "precip", "pressure", "visib")


def features(columns: Columns) -> dict[str, Array]:
    """Return the model's features: numbers (float, NaN where missing) and text (object, "" where missing)."""
    scheduled = columns["scheduled"]
    wind_north, wind_east = wind(columns["wind_speed"], columns["wind_dir"])
    return {
        "month": month(scheduled),
        "weekday": weekday(scheduled),
        "hour": hour(scheduled),
        "wind_north": wind_north,
        "wind_east": wind_east,
        **{name: columns[name] for name in PASSED_ON},
    }


def wind(speed: Array, direction: Array) -> tuple[Array, Array]:
    """Parts of the wind from the north and from the east, in the unit of `speed`; `direction` in degrees."""
    angle = np.deg2rad(direction)
    return speed * np.cos(angle), speed * np.sin(angle)
