package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"lunless/smbstore/block"
)

// Side is one of two targets that are compared.
type Side struct {
	Name      string
	Terms     string // dialect and protection of its connection, "" if not known
	Devices   []block.Device
	ServerPID int
}

// Ratio is side A's value over side B's in the same round: the median over the
// rounds, and the least and the greatest.
type Ratio struct {
	A      float64 `json:"a"` // median
	B      float64 `json:"b"` // median
	Median float64 `json:"ratio"`
	Min    float64 `json:"ratio_min"`
	Max    float64 `json:"ratio_max"`
}

// Comparison of two targets under one workload.
type Comparison struct {
	Workload        Workload `json:"workload"`
	A               string   `json:"a"`
	B               string   `json:"b"`
	ATerms          string   `json:"a_connection,omitempty"` // dialect and protection
	BTerms          string   `json:"b_connection,omitempty"`
	Rounds          int      `json:"rounds"`
	IOPS            Ratio    `json:"iops"`
	MiBPerSec       Ratio    `json:"mib_per_s"`
	P99             Ratio    `json:"p99_us"`
	ClientCPUPerOp  Ratio    `json:"client_cpu_us_per_op"`
	ServerCPUPerOp  Ratio    `json:"server_cpu_us_per_op"`
	ServerCPUPerGiB Ratio    `json:"server_cpu_s_per_gib"`
}

// Compare runs the two sides in turn, so that what else the machine does hits
// both alike: A B, B A, A B and so on.
func Compare(ctx context.Context, a, b Side, o Options, rounds int, done func(round int, a, b Result)) (Comparison, error) {
	if rounds < 1 {
		return Comparison{}, errors.New("bench: a comparison needs at least one round")
	}
	var as, bs []Result
	for round := range rounds {
		pair := [2]Result{}
		order := [2]int{0, 1}
		if round%2 == 1 {
			order = [2]int{1, 0}
		}
		for _, i := range order {
			side := [2]Side{a, b}[i]
			o := o
			o.ServerPID = side.ServerPID
			o.Seed += uint64(round)
			r, err := Run(ctx, side.Devices, o)
			if err != nil {
				return Comparison{}, fmt.Errorf("%s, round %d: %w", side.Name, round+1, err)
			}
			r.Target = side.Name
			pair[i] = r
		}
		as, bs = append(as, pair[0]), append(bs, pair[1])
		if done != nil {
			done(round+1, pair[0], pair[1])
		}
	}
	ratio := func(value func(Result) float64) Ratio { return ratioOf(as, bs, value) }
	return Comparison{Workload: o.Workload, A: a.Name, B: b.Name, ATerms: a.Terms, BTerms: b.Terms, Rounds: rounds,
		IOPS:            ratio(func(r Result) float64 { return r.IOPS }),
		MiBPerSec:       ratio(func(r Result) float64 { return r.MiBPerSec }),
		P99:             ratio(p99),
		ClientCPUPerOp:  ratio(func(r Result) float64 { return r.ClientCPUPerOp }),
		ServerCPUPerOp:  ratio(func(r Result) float64 { return r.ServerCPUPerOp }),
		ServerCPUPerGiB: ratio(func(r Result) float64 { return r.ServerCPUPerGiB }),
	}, nil
}

// p99 is that of the slower kind of request.
func p99(r Result) float64 {
	v := 0.0
	for _, l := range []*Latency{r.Read, r.Write} {
		if l != nil {
			v = max(v, l.P99)
		}
	}
	return v
}

func ratioOf(as, bs []Result, value func(Result) float64) Ratio {
	var av, bv, quotients []float64
	for i := range as {
		a, b := value(as[i]), value(bs[i])
		av, bv = append(av, a), append(bv, b)
		if b > 0 {
			quotients = append(quotients, a/b)
		}
	}
	r := Ratio{A: median(av), B: median(bv)}
	if len(quotients) > 0 {
		r.Median, r.Min, r.Max = median(quotients), slices.Min(quotients), slices.Max(quotients)
	}
	return r
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// named is a target's name with the terms of its connection, where they are known.
func named(target, terms string) string {
	if terms == "" {
		return target
	}
	return target + " (" + terms + ")"
}

// WriteText prints the comparison for people.
func (c Comparison) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%s: A = %s, B = %s, %d rounds in turn, medians\n", c.Workload.Name, named(c.A, c.ATerms), named(c.B, c.BTerms), c.Rounds)
	fmt.Fprintf(w, "  %-24s %12s %12s %8s   %s\n", "", "A", "B", "A/B", "least..greatest")
	for _, l := range []struct {
		name string
		Ratio
	}{{"IOPS", c.IOPS}, {"MiB/s", c.MiBPerSec}, {"p99 latency, us", c.P99}, {"client CPU, us/op", c.ClientCPUPerOp},
		{"server CPU, us/op", c.ServerCPUPerOp}, {"server CPU, s/GiB", c.ServerCPUPerGiB}} {
		if l.A == 0 && l.B == 0 {
			continue
		}
		fmt.Fprintf(w, "  %-24s %12.2f %12.2f %8.2f   %.2f..%.2f\n", l.name, l.A, l.B, l.Ratio.Median, l.Min, l.Max)
	}
}
