"""The servers that the platform is compared with."""
