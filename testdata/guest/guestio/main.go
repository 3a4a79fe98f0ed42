// Guestio works on files of a mounted share inside the test guest and checks
// every byte against what it wrote.
//
//	guestio churn DIR SEED SECONDS      random operations on a few files, as fsx has them
//	guestio stamp FILE SECONDS          stamped blocks, rewritten and verified by several writers; until FILE.stop, at most
//
// It ends with one line, "GUESTIO ok …" or "GUESTIO FAIL …".
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	summary, err := run(os.Args[1:])
	if err != nil {
		fmt.Println("GUESTIO FAIL", err)
		os.Exit(1)
	}
	fmt.Println("GUESTIO ok", summary)
}

func run(args []string) (string, error) {
	if len(args) < 3 {
		return "", fmt.Errorf("usage: guestio churn DIR SEED SECONDS | guestio stamp FILE SECONDS")
	}
	seconds, err := strconv.Atoi(args[len(args)-1])
	if err != nil {
		return "", err
	}
	until := time.Now().Add(time.Duration(seconds) * time.Second)
	switch {
	case args[0] == "churn" && len(args) == 4:
		seed, err := strconv.ParseUint(args[2], 10, 64)
		if err != nil {
			return "", err
		}
		return churn(args[1], seed, until)
	case args[0] == "stamp" && len(args) == 3:
		return stamp(args[1], until)
	}
	return "", fmt.Errorf("no such mode: %q", args)
}
