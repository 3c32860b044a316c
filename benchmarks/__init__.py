"""Measurements; `make bench` runs them. Figures are quoted in docs/performance.md."""
