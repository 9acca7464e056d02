"""The contract between connectors and the platform. Knows no database, web framework or settings."""
