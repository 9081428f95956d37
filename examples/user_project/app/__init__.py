"""The project's own application package."""
