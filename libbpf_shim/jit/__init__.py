"""From verified instructions to machine code."""
