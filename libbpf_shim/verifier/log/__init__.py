"""The text of the log, as the kernel prints it."""
