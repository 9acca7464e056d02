"""Moves everything from an SQLite file to a PostgreSQL database, and compares every row of both."""
