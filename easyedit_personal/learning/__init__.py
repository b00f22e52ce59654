"""One user told something: read, learned once, kept, undone."""
