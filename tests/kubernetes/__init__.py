"""Kubernetes: the API server double, and what is tested against it."""
