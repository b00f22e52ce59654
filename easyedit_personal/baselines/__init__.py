"""What personalisation by editing is compared with, and the kernels themselves, behind one protocol."""
