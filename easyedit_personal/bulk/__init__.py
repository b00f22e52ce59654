"""Personalising many users from a file, with any engine, and going on after any fault."""
