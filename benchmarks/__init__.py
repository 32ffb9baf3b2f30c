"""What `vtsr-bench` measures, and how its results become docs/performance.md."""
