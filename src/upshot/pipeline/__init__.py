"""The stages of the line: load, decide in the core, save."""
