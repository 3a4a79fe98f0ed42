package bench

import (
	"fmt"
	"io"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency of one kind of request, in microseconds.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_us"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p99_9_us"`
	Max   float64 `json:"max_us"`
}

// Result is what a run measured. CPU figures are 0 where nothing was measured.
type Result struct {
	Target      string   `json:"target"`
	Terms       string   `json:"connection,omitempty"` // dialect and protection
	Workload    Workload `json:"workload"`
	Connections int      `json:"connections"`
	Seed        uint64   `json:"seed"`
	Verified    bool     `json:"verified"`
	Seconds     float64  `json:"seconds"`
	Operations  int64    `json:"operations"`
	IOPS        float64  `json:"iops"`
	MiBPerSec   float64  `json:"mib_per_s"`
	Read        *Latency `json:"read,omitempty"`
	Write       *Latency `json:"write,omitempty"`

	ClientCPUPerOp  float64 `json:"client_cpu_us_per_op"`
	ServerCPUPerOp  float64 `json:"server_cpu_us_per_op,omitempty"`
	ServerCPUPerGiB float64 `json:"server_cpu_s_per_gib,omitempty"`

	MaxRSS int64 `json:"client_max_rss"` // bytes, of this process since its start
}

func summarise(o Options, connections int, elapsed, clientCPU, serverCPU time.Duration, workers []*worker) Result {
	reads, writes := newHistogram(), newHistogram()
	for _, w := range workers {
		reads.Merge(w.reads)
		writes.Merge(w.writes)
	}
	ops := reads.TotalCount() + writes.TotalCount()
	bytes := float64(ops) * float64(o.BlockSize)
	r := Result{Workload: o.Workload, Connections: connections, Seed: o.Seed, Verified: o.Verify,
		Seconds: elapsed.Seconds(), Operations: ops,
		IOPS: float64(ops) / elapsed.Seconds(), MiBPerSec: bytes / (1 << 20) / elapsed.Seconds(),
		Read: latency(reads), Write: latency(writes), MaxRSS: maxRSS()}
	if ops > 0 {
		r.ClientCPUPerOp = micro(clientCPU) / float64(ops)
		r.ServerCPUPerOp = micro(serverCPU) / float64(ops)
		r.ServerCPUPerGiB = serverCPU.Seconds() / (bytes / (1 << 30))
	}
	return r
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func latency(h *hdrhistogram.Histogram) *Latency {
	if h.TotalCount() == 0 {
		return nil
	}
	at := func(q float64) float64 { return micro(time.Duration(h.ValueAtQuantile(q))) }
	return &Latency{Count: h.TotalCount(), Mean: h.Mean() / 1000, P50: at(50), P90: at(90), P99: at(99),
		P999: at(99.9), Max: micro(time.Duration(h.Max()))}
}

// WriteText prints the result for people.
func (r Result) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%s  %s  depth %d, %d connection(s), %.1f s, seed %d\n",
		named(r.Target, r.Terms), r.Workload.Name, r.Workload.Depth, r.Connections, r.Seconds, r.Seed)
	fmt.Fprintf(w, "  %12.0f IOPS  %10.1f MiB/s  %d operations\n", r.IOPS, r.MiBPerSec, r.Operations)
	for _, l := range []struct {
		what string
		*Latency
	}{{"read", r.Read}, {"write", r.Write}} {
		if l.Latency != nil {
			fmt.Fprintf(w, "  %-5s latency us: mean %.0f  p50 %.0f  p90 %.0f  p99 %.0f  p99.9 %.0f  max %.0f\n",
				l.what, l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max)
		}
	}
	fmt.Fprintf(w, "  client CPU %.1f us/op", r.ClientCPUPerOp)
	if r.ServerCPUPerOp > 0 {
		fmt.Fprintf(w, "  server CPU %.1f us/op, %.3f s/GiB", r.ServerCPUPerOp, r.ServerCPUPerGiB)
	}
	if r.MaxRSS > 0 {
		fmt.Fprintf(w, "  %d MiB of memory at most", r.MaxRSS>>20)
	}
	if r.Verified {
		fmt.Fprint(w, "  every block read back was verified")
	}
	fmt.Fprintln(w)
}
