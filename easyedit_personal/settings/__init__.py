"""Settings for a model: shipped, derived from another model's, or a user's own file; checked before any work."""
