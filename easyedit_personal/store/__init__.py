"""Where users' edits are kept: factors as files of a few kilobytes, never pickled."""
