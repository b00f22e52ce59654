"""EasyEdit's own editors on a real model: does each run, with which settings is each at its best, and the big table."""
