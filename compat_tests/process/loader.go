// loader PROGRAM OFFSET COUNT: a loader in Go, statically linked, made of raw system calls.
//
// Counts hits of the uprobe at OFFSET of PROGRAM in an array, by a link; prints READY, then reads the
// array until it says COUNT, while other goroutines keep the runtime sending its signals. A second
// array is mapped.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	sysBpf, sysPerfEventOpen        = 321, 298
	mapCreate, lookup, update       = 0, 1, 2
	progLoad, linkCreate            = 5, 28
	typeArray, mmapable, kprobe     = 2, 1 << 10, 2
	perfEvent, cloexec, ioctlEnable = 41, 8, 0x2400
)

type insn struct {
	code, regs byte
	off        int16
	imm        int32
}

func fail(what string, err syscall.Errno) {
	fmt.Println(what, err)
	os.Exit(1)
}

func bpf(cmd int, attr *[144]byte) (int, syscall.Errno) {
	ret, _, err := syscall.Syscall(sysBpf, uintptr(cmd), uintptr(unsafe.Pointer(attr)), 144)
	return int(ret), err
}

func put32(attr *[144]byte, at int, value uint32) { binary.LittleEndian.PutUint32(attr[at:], value) }

func put64(attr *[144]byte, at int, value uintptr) {
	binary.LittleEndian.PutUint64(attr[at:], uint64(value))
}

func array(flags uint32) int {
	var attr [144]byte
	put32(&attr, 0, typeArray)
	put32(&attr, 4, 4)
	put32(&attr, 8, 8)
	put32(&attr, 12, 1)
	put32(&attr, 16, flags)
	fd, err := bpf(mapCreate, &attr)
	if err != 0 {
		fail("map", err)
	}
	return fd
}

func program(maps ...int) int {
	var code []insn
	for _, fd := range maps { // a lookup, and one more
		code = append(code,
			insn{0x62, 10, -4, 0},
			insn{0x18, 1 | 1<<4, 0, int32(fd)}, insn{},
			insn{0xbf, 2 | 10<<4, 0, 0}, insn{0x07, 2, 0, -4},
			insn{0x85, 0, 0, 1},
			insn{0x15, 0, 2, 0},
			insn{0xb7, 1, 0, 1}, insn{0xdb, 0 | 1<<4, 0, 0})
	}
	code = append(code, insn{0xb7, 0, 0, 0}, insn{0x95, 0, 0, 0})
	license := []byte("GPL\x00")
	var attr [144]byte
	put32(&attr, 0, kprobe)
	put32(&attr, 4, uint32(len(code)))
	put64(&attr, 8, uintptr(unsafe.Pointer(&code[0])))
	put64(&attr, 16, uintptr(unsafe.Pointer(&license[0])))
	fd, err := bpf(progLoad, &attr)
	if err != 0 {
		fail("program", err)
	}
	return fd
}

func probe(path string, offset uint64) int {
	text, _ := os.ReadFile("/sys/bus/event_source/devices/uprobe/type")
	kind, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	name := append([]byte(path), 0)
	var attr [136]byte
	binary.LittleEndian.PutUint32(attr[0:], uint32(kind))
	binary.LittleEndian.PutUint32(attr[4:], uint32(len(attr)))
	binary.LittleEndian.PutUint64(attr[56:], uint64(uintptr(unsafe.Pointer(&name[0]))))
	binary.LittleEndian.PutUint64(attr[64:], offset)
	fd, _, err := syscall.Syscall6(sysPerfEventOpen, uintptr(unsafe.Pointer(&attr[0])),
		^uintptr(0), 0, ^uintptr(0), cloexec, 0)
	if err != 0 {
		fail("perf_event_open", err)
	}
	return int(fd)
}

func value(fd int) uint64 {
	var key uint32
	var found uint64
	var attr [144]byte
	put32(&attr, 0, uint32(fd))
	put64(&attr, 8, uintptr(unsafe.Pointer(&key)))
	put64(&attr, 16, uintptr(unsafe.Pointer(&found)))
	if _, err := bpf(lookup, &attr); err != 0 {
		fail("lookup", err)
	}
	return found
}

func main() {
	offset, _ := strconv.ParseUint(os.Args[2], 0, 64)
	want, _ := strconv.ParseUint(os.Args[3], 0, 64)
	for i := 0; i < 2; i++ {
		go func() {
			for n := 0; ; n++ {
				_ = make([]byte, 4096)
			}
		}()
	}
	counter, mapped := array(0), array(mmapable)
	page, err := syscall.Mmap(mapped, 0, 4096, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		fmt.Println("mmap", err)
		os.Exit(1)
	}
	prog, event := program(counter, mapped), probe(os.Args[1], offset)
	var attr [144]byte
	put32(&attr, 0, uint32(prog))
	put32(&attr, 4, uint32(event))
	put32(&attr, 8, perfEvent)
	if _, err := bpf(linkCreate, &attr); err != 0 {
		fail("link", err)
	}
	if _, _, err := syscall.Syscall(syscall.SYS_IOCTL, uintptr(event), ioctlEnable, 0); err != 0 {
		fail("enable", err)
	}
	fmt.Println("READY")
	for end := time.Now().Add(30 * time.Second); value(counter) < want && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("count", value(counter), "mapped", binary.LittleEndian.Uint64(page))
}
