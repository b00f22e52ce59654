"""Many users' factors in one batch: adapters per row, streams, a cache of factors, conversations."""
