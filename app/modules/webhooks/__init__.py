"""The way of a webhook: verified, stored, processed, replayed."""
