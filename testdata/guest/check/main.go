// Check verifies the test guest's disks from outside: every block that its writer
// has written must be whole, in its place, and at least as new as what was flushed.
//
//	check [-records TRANSCRIPT] IMAGE...
//
// IMAGE is a disk of any format, local or on a share, not being written to; all of
// one guest's disks together tell most. TRANSCRIPT is what the guest said on its
// console. The exit status is 1 if anything is wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"lunless/smbstore"
	"lunless/testdata/guest/stamp"
	"lunless/testdata/guest/vm"
)

func main() {
	transcript := flag.String("records", "", "what the guest said on its console")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	report, err := check(*transcript, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
	fmt.Printf("%d blocks are right, %d of them zeroes; %d boots\n", report.Stamped+report.Zero, report.Zero, report.Runs)
}

func check(transcript string, images []string) (*stamp.Report, error) {
	var records stamp.Records
	if transcript != "" {
		f, err := os.Open(transcript)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if records, err = vm.ReadRecords(f); err != nil {
			return nil, fmt.Errorf("%s: %w", transcript, err)
		}
	}
	var disks []smbstore.Location
	for _, name := range images {
		l, err := smbstore.ParseLocation(name)
		if err != nil {
			return nil, err
		}
		disks = append(disks, l)
	}
	return vm.Check(context.Background(), records, smbstore.Options{}, disks...)
}
