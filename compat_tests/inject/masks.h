/* Of quick.c and masks.c. */
#ifndef MASKS_H
#define MASKS_H

void batch(int n); /* eight looks each */
void *masks(void *unused); /* one thread's */

#endif
