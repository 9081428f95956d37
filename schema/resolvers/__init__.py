"""What does each operation do?

Plain functions for GraphQL and REST alike: bound the input, then call one verb of the engine.
"""
