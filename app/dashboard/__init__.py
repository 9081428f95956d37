"""What do people look at? Pages that are complete without scripts, and what brings them to life."""
