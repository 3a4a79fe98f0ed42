// Mkguest builds the test guest for people and scripts.
//
//	mkguest [-o FOLDER]                      kernel and initramfs; prints their paths and the command line
//	mkguest [-size MIB] -disk IMAGE [PARAM…] a raw disk that a PC's BIOS boots the guest from
//
// PARAMs are the writer's, as rate=0 (see testdata/guest/writer). Convert the image
// with `lunless disk convert`, or give it to `lunless vm import`.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"lunless/testdata/guest/vm"
)

func main() {
	out := flag.String("o", "", "folder for the initramfs (default .work/guest)")
	disk := flag.String("disk", "", "raw image to make")
	size := flag.Int64("size", 128, "its size in MiB")
	flag.Parse()
	if err := run(*out, *disk, *size<<20, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mkguest:", err)
		os.Exit(1)
	}
}

func run(out, disk string, size int64, params []string) error {
	g, err := vm.Build(context.Background(), out)
	if err != nil {
		return err
	}
	if disk != "" {
		return g.BootDisk(context.Background(), disk, vm.BootOptions{Size: size, Params: params})
	}
	fmt.Printf("kernel  %s\ninitrd  %s\nappend  %s\n", g.Kernel, g.Initrd, g.Append(params...))
	return nil
}
