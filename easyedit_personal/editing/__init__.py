"""The algorithm as users call it: EasyEdit's function signature, and an editor that needs no host."""
