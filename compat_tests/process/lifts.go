// lifts: a loader in Go that has libbpf make bpf(2), and lifts the limit of locked memory by a system call of its
// own first, as libbpfgo does. Prints what it was called by, both answers, and an element's value.
package main

// #include <bpf/bpf.h>
import "C"

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

const memlock = 8

func main() {
	all := syscall.Rlimit{Cur: ^uint64(0), Max: ^uint64(0)}
	key, value, read := int32(0), uint64(77), uint64(0)
	limit := syscall.Setrlimit(memlock, &all)
	fd := C.bpf_map_create(C.BPF_MAP_TYPE_ARRAY, nil, 4, 8, 1, nil)
	C.bpf_map_update_elem(fd, unsafe.Pointer(&key), unsafe.Pointer(&value), 0)
	C.bpf_map_lookup_elem(fd, unsafe.Pointer(&key), unsafe.Pointer(&read))
	fmt.Println(os.Args, limit, fd >= 0, read)
}
