"""Calls of helpers and of the program's own functions: which there are, what they take, what they
leave behind."""
