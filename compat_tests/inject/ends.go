package main

import (
	"bufio"
	"fmt"
	"os"
)

// Each goroutine ends by a return to where the runtime's goexit seems to have been called from.
func main() {
	fmt.Println("ready")
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		sums := make(chan int)
		for i := 0; i < 50; i++ {
			go func(i int) { sums <- i }(i)
		}
		sum := 0
		for i := 0; i < 50; i++ {
			sum += <-sums
		}
		fmt.Println(sum)
	}
}
