"""Sources that are asked instead of telling."""
