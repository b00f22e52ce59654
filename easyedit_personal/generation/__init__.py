"""Writing text and scoring it: one greedy decoder, one cache of shared prefixes."""
