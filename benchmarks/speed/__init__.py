"""How fast the package is beside EasyEdit, and how far from what the machine can multiply."""
