package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteSize is a flag's value such as 4K, 32M, 1.5G, 2T or a plain number of
// bytes; units are powers of 1024, as they are everywhere a disk is made.
type byteSize int64

func (b *byteSize) String() string {
	if *b == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*b), 10)
}
func (b *byteSize) Type() string { return "size" }

func (b *byteSize) Set(s string) error {
	digits := strings.TrimSpace(s)
	digits = strings.TrimSuffix(strings.TrimSuffix(digits, "B"), "i")
	shift := 0
	if n := len(digits); n > 0 {
		if i := strings.IndexByte("KMGTP", digits[n-1]&^0x20); i >= 0 {
			shift, digits = 10*(i+1), digits[:n-1]
		}
	}
	v, err := strconv.ParseFloat(digits, 64)
	v = math.Ldexp(v, shift)
	if err != nil || strings.Trim(digits, "0123456789.") != "" || !(v >= 0) || v >= math.MaxInt64 || v != math.Trunc(v) {
		return fmt.Errorf("%q is no size: want a number with K, M, G or T, such as 64G", s)
	}
	*b = byteSize(v)
	return nil
}

// byteSizes is a flag that is given once for each size; the first replaces the default.
type byteSizes struct {
	sizes []int64
	given bool
}

func (b *byteSizes) String() string { return "" }
func (b *byteSizes) Type() string   { return "size" }

func (b *byteSizes) Set(s string) error {
	var one byteSize
	if err := one.Set(s); err != nil {
		return err
	}
	if !b.given {
		b.given, b.sizes = true, nil
	}
	b.sizes = append(b.sizes, int64(one))
	return nil
}
