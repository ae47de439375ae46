"""What an event did to a key, told in a sentence; a module for each kind of condition."""
