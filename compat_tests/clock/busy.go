// Goroutines that compute, allocate and wait until a line is read; says its number first.
package main

import (
	"bufio"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

var over atomic.Bool

//go:noinline
func spin(n int) int {
	x := 0
	for i := 0; i < n; i++ {
		x += i ^ x<<1
	}
	return x
}

func work(all *sync.WaitGroup, sums chan int) {
	defer all.Done()
	for !over.Load() {
		some := make([]int, 4096)
		for i := range some {
			some[i] = spin(200)
		}
		select {
		case sums <- some[7]:
		case <-time.After(time.Millisecond):
		}
	}
}

func main() {
	var all sync.WaitGroup
	sums := make(chan int)
	for i := 0; i < 4; i++ {
		all.Add(1)
		go work(&all, sums)
	}
	go func() {
		for range sums {
		}
	}()
	fmt.Printf("pid %d\n", os.Getpid())
	bufio.NewReader(os.Stdin).ReadString('\n')
	over.Store(true)
	all.Wait()
	fmt.Println("done")
}
