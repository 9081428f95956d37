"""The one place that speaks to MongoDB."""
