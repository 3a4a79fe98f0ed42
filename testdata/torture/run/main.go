// Command run is what `make torture` calls: smbtorture's tests against a
// server, with a table beside Samba's own result.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"

	"lunless/testdata/torture"
)

func main() {
	var t torture.Target
	o := torture.Options{Args: torture.ScratchArgs()}
	flag.StringVar(&t.Addr, "server", "", "host:port")
	flag.StringVar(&t.Share, "share", "", "share; %d stands for the job's number")
	flag.StringVar(&t.User, "user", "", "user%password")
	flag.IntVar(&o.Jobs, "jobs", 1, "tests side by side")
	flag.StringVar(&o.LogDir, "logs", "", "folder for each test's log and the results")
	match := flag.String("match", ".", "regular expression of the tests to run")
	flag.Parse()
	if t.Addr == "" || t.Share == "" || t.User == "" {
		flag.Usage()
		os.Exit(2)
	}
	re, err := regexp.Compile(*match)
	if err == nil && o.LogDir != "" {
		err = os.MkdirAll(o.LogDir, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	results, err := torture.Run(ctx, t, torture.Tests(re), o, nil)
	torture.Report(os.Stdout, results)
	if o.LogDir != "" {
		f, ferr := os.Create(filepath.Join(o.LogDir, "results"))
		if ferr == nil {
			ferr = torture.Write(f, results)
			f.Close()
		}
		if err == nil {
			err = ferr
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
