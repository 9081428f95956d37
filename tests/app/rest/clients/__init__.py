"""What a client of each system would be, written from its own document alone: nothing here knows of our server."""
