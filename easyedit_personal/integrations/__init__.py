"""Doors to other systems: EasyEdit as the host, Ray for the fan-out, vLLM for the serving."""
