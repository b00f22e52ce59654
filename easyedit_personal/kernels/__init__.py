"""Editing kernels: each computes factors from a model and requests, and leaves the model as it found it."""
