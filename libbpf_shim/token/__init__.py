"""Capability tokens: what they claim, how they are chained and checked, and what they permit."""
