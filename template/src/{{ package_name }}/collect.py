"""Collect: bring the sources together into one table. Set-wise work (joins, unions) belongs here, written with Ibis."""

from __future__ import annotations

from collections.abc import Mapping

import ibis


def collect(sources: Mapping[str, ibis.Table]) -> ibis.Table:
    """Join each flight with the weather at its airport in the hour of its scheduled departure.

    `sources` holds one table for each entry of `source` in `config/data.yaml`.
    """
    flights, weather = sources["flights"], sources["weather"]
    joined = flights.left_join(weather, ["origin", "time_hour"])
    return joined.drop("origin_right", "time_hour_right")
