/* possible: how many CPUs libbpf finds before the first bpf(2) and after it, read anew each time, and
 * that a per-CPU value is no larger than that. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 1024, FILL = 0xa5 };

static int possible(void)
{
	unsigned int low = 0, high = 0;
	FILE *f = fopen("/sys/devices/system/cpu/possible", "r");

	if (!f || fscanf(f, "%u-%u", &low, &high) < 1)
		return -1;
	fclose(f);
	return (int)(high > low ? high : low) + 1;
}

int main(void)
{
	static uint64_t values[MOST];
	int before = libbpf_num_possible_cpus(), fd, after, written = 0;
	uint32_t key = 0;

	fd = bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, "possible", 4, 8, 1, NULL);
	after = possible();
	memset(values, FILL, sizeof(values));
	if (fd < 0 || bpf_map_lookup_elem(fd, &key, values))
		return 1;
	while (written < MOST && !values[written])
		written++;
	printf("%d\n", before == after && written == after);
	return 0;
}
