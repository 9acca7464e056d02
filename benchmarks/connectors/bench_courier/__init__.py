"""The connector whose actions the benchmark asks for."""
