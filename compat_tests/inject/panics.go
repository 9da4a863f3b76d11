package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
)

type thing struct{ first, second int }

// Its first instruction is the one that faults.
//
//go:noinline
func value(t *thing) int { return t.second }

//go:noinline
func divide(a, b int) int { return a / b }

func try(f func() int) (what string) {
	defer func() {
		if r := recover(); r != nil {
			_, isError := r.(runtime.Error)
			what = fmt.Sprintf("%v, %v", r, isError)
		}
	}()
	return fmt.Sprint(f())
}

func main() {
	fmt.Println("ready")
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		var t *thing
		if s.Text() != "nil" {
			t = &thing{1, len(s.Text())}
		}
		fmt.Printf("%s; %s\n", try(func() int { return value(t) }),
			try(func() int { return divide(6, len(s.Text())-3) }))
	}
}
