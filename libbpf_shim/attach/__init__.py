"""Event sources, targets, and how a program gets into a process."""
