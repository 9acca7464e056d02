"""What operators see of the platform from outside."""
