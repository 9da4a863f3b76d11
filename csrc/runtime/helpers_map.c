/* Map elements: r1 is the address of the map's struct shim_map_desc. */
#include "helpers.h"

HELPER(map_lookup_elem)
{
	UNUSED(r3, r4, r5);
	return (u64)shim_map_lookup((const struct shim_map_desc *)r1, (const void *)r2, run);
}

HELPER(map_update_elem)
{
	UNUSED(r5);
	return (u64)shim_map_update((const struct shim_map_desc *)r1, (const void *)r2,
				    (const void *)r3, r4, run);
}

HELPER(map_delete_elem)
{
	UNUSED(r3, r4, r5);
	return (u64)shim_map_delete((const struct shim_map_desc *)r1, (const void *)r2, run);
}

HELPER(map_push_elem)
{
	UNUSED(r4, r5);
	return (u64)shim_map_push((const struct shim_map_desc *)r1, (const void *)r2, r3, run);
}

HELPER(map_pop_elem)
{
	UNUSED(r3, r4, r5);
	return (u64)shim_map_pop((const struct shim_map_desc *)r1, (void *)r2, run);
}

HELPER(map_peek_elem)
{
	UNUSED(r3, r4, r5);
	return (u64)shim_map_peek((const struct shim_map_desc *)r1, (void *)r2, run);
}

HELPER(map_lookup_percpu_elem)
{
	UNUSED(r4, r5);
	return (u64)shim_map_lookup_percpu((const struct shim_map_desc *)r1, (const void *)r2, (u32)r3,
					   run);
}

/* Where to go on: an image's entry, 0 to fall through. The caller's code jumps (jit/tier1.py). */
HELPER(tail_call)
{
	UNUSED(r1, r4, r5);
	return prog_array_entry((const struct shim_map_desc *)r2, (u32)r3, run);
}
