"""What can I ask? The GraphQL schema, in Strawberry; no web framework, no database driver."""
