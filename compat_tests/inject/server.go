package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

var served int64

//go:noinline
func handle(n int) int {
	atomic.AddInt64(&served, 1)
	if n <= 1 {
		return n
	}
	return handle(n-1) + n
}

//go:noinline
func deep(n int) int {
	var pad [256]byte
	pad[n%256] = byte(n)
	if n == 0 {
		return int(pad[3])
	}
	return deep(n-1) + int(pad[n%256])
}

// System calls of a known number: by goroutines that run side by side, one that is made by its
// number, one that waits, and a child by clone(CLONE_VFORK).
func calls() {
	done := make(chan bool)
	for g := 0; g < 4; g++ {
		go func() {
			for i := 0; i < 50; i++ {
				if syscall.Getppid() == 0 {
					panic("ppid")
				}
				if _, err := os.Stat("/no/such"); !os.IsNotExist(err) {
					panic(err)
				}
				_, _, e := syscall.RawSyscall6(syscall.SYS_PREAD64, ^uintptr(0), 1, 2, 3, 4, 5)
				if e != syscall.EBADF {
					panic(e)
				}
			}
			done <- true
		}()
	}
	for g := 0; g < 4; g++ {
		<-done
	}
	if len(os.Args) > 1 {
		if err := exec.Command("/bin/true").Run(); err != nil {
			panic(err)
		}
	}
}

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					s, err := r.ReadString('\n')
					if err != nil {
						return
					}
					fmt.Fprintf(c, "%d %s", handle(10), s)
				}
			}()
		}
	}()
	for i := 0; i < 8; i++ {
		go func() {
			for {
				deep(100)
				_ = make([]byte, 4096)
				runtime.Gosched()
				time.Sleep(50 * time.Microsecond)
			}
		}()
	}
	fmt.Println("ready", l.Addr().(*net.TCPAddr).Port)
	in := bufio.NewReader(os.Stdin)
	var last int64
	for {
		_, err := in.ReadByte()
		if err != nil {
			return
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			panic(err)
		}
		for i := 0; i < 100; i++ {
			fmt.Fprintf(c, "hello\n")
			buf := make([]byte, 64)
			n, _ := c.Read(buf)
			if string(buf[:n]) != "55 hello\n" {
				panic(string(buf[:n]))
			}
		}
		c.Close()
		calls()
		n := atomic.LoadInt64(&served)
		fmt.Printf("0 %d\n", n-last)
		last = n
	}
}
