"""Metrics, protocols and the reading of differences."""
