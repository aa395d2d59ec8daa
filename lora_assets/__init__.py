"""The Dagster layer: projects as asset groups, thin, without training logic."""
