"""Calls of kernel functions, and what only they make and release: objects, locks, sections,
iterators, dynptrs, exceptions."""
