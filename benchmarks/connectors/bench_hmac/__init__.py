"""The connector that the benchmark's webhooks go to."""
