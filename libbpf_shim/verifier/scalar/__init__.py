"""Numbers: what is known of one, what arithmetic and comparisons make of it, and which registers
hold the same one."""
