"""Reading models: where their projections are, how prompts become tokens, what passes through them."""
