"""Segments of videos made by the machines of a Ray cluster (extra ``cluster``), joined here; see docs/scale.md."""
