"""What `upshot demo` starts: a small real runner, and processes that stay when the demo is over."""
