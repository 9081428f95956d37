"""What does the schema look like, written down?

`python -m schema.export` prints the sorted SDL that `schema.graphql` holds.
"""

from graphql import lexicographic_sort_schema, print_schema

from schema.build import build_schema

__all__ = ["sdl"]


def sdl() -> str:
    """The schema in GraphQL's definition language, sorted."""
    return print_schema(lexicographic_sort_schema(build_schema()._schema)) + "\n"


if __name__ == "__main__":
    print(sdl(), end="")
