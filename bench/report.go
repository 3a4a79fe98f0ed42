package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// ParseResults reads what `bench run --json` printed: one result or a list.
func ParseResults(b []byte) ([]Result, error) {
	var list []Result
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '[' {
		err := json.Unmarshal(b, &list)
		return list, err
	}
	var one Result
	if err := json.Unmarshal(b, &one); err != nil {
		return nil, err
	}
	if one.Workload.Name == "" {
		return nil, fmt.Errorf("not a result of `bench run --json`")
	}
	return []Result{one}, nil
}

// WriteTable prints results as rows of one table.
func WriteTable(w io.Writer, results []Result) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "workload\tIOPS\tMiB/s\tp50 us\tp99 us\tclient us/op\tserver us/op\tserver s/GiB\t  target\t")
	for _, r := range results {
		var p50 float64
		for _, l := range []*Latency{r.Read, r.Write} {
			if l != nil {
				p50 = max(p50, l.P50)
			}
		}
		fmt.Fprintf(tw, "%s\t%.0f\t%.1f\t%.0f\t%.0f\t%.1f\t%.1f\t%.3f\t  %s\t\n", r.Workload.Name, r.IOPS, r.MiBPerSec,
			p50, p99(r), r.ClientCPUPerOp, r.ServerCPUPerOp, r.ServerCPUPerGiB, r.Target)
	}
	tw.Flush()
}
