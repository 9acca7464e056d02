"""Throughput and latency of the platform, as ratios to simpler servers within one run."""
