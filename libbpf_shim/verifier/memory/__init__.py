"""What addresses of the program's own point at: stack slots, map values, packets, contexts, its
own objects, and which of their bytes may be read and written."""
