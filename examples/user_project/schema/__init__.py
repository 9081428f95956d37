"""The project's own data types."""
