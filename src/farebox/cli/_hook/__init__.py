"""A folder that `farebox run` puts first on PYTHONPATH."""
