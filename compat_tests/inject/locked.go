package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

const threads, calls = 24, 20

//go:noinline
func handle(n int) int { return n + 1 }

// Threads that keep one goroutine each: at every byte each calls handle and parks; meanwhile each gets
// the signal that Go preempts by, wherever it is.
func main() {
	turn, done := make([]chan int, threads), make(chan int)
	tids := make([]int, threads)
	for i := range turn {
		turn[i] = make(chan int)
		go func(i int) {
			runtime.LockOSThread()
			tids[i] = syscall.Gettid()
			done <- i
			for n := range turn[i] {
				for c := 0; c < calls; c++ {
					n = handle(n)
				}
				done <- n
			}
		}(i)
		<-done
	}
	fmt.Println("ready")
	for in := bufio.NewReader(os.Stdin); ; {
		if _, err := in.ReadByte(); err != nil {
			return
		}
		sum := 0
		for i, c := range turn {
			var parked atomic.Bool
			go func() {
				for !parked.Load() {
					syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(os.Getpid()), uintptr(tids[i]),
						uintptr(syscall.SIGURG))
					time.Sleep(20 * time.Microsecond)
				}
			}()
			c <- 0
			sum += <-done
			parked.Store(true)
		}
		fmt.Println(0, sum)
	}
}
