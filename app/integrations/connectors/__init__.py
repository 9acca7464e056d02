"""Every folder in here is a connector; the registry finds them, nothing lists them."""
