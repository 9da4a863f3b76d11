/* The key of this process: shim_keys.h. */
#include "shim_keys.h"

u32 shim_key_bits;
