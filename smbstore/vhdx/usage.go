package vhdx

import "math/bits"

// usage is a bitmap of the file's megabytes.
type usage struct {
	words []uint64
	count int64 // bits set
}

func newUsage(fileSize int64) *usage {
	return &usage{words: make([]uint64, (fileSize+64*mib-1)/(64*mib))}
}

// mark sets the megabytes of [off, off+n), which lies below maxFileSize, and
// returns the first that was set already, or -1.
func (u *usage) mark(off, n int64) int64 {
	twice := int64(-1)
	if n <= 0 {
		return twice
	}
	if need := (off + n + 64*mib - 1) / (64 * mib); need > int64(len(u.words)) {
		u.words = append(u.words, make([]uint64, need-int64(len(u.words)))...)
	}
	for m := off / mib; m < (off+n)/mib; m++ {
		w, bit := &u.words[m/64], uint64(1)<<(m%64)
		if *w&bit != 0 {
			if twice < 0 {
				twice = m * mib
			}
			continue
		}
		*w |= bit
		u.count++
	}
	return twice
}

// end is where the last marked megabyte ends.
func (u *usage) end() int64 {
	for i := len(u.words) - 1; i >= 0; i-- {
		if w := u.words[i]; w != 0 {
			return (int64(i)*64 + 64 - int64(bits.LeadingZeros64(w))) * mib
		}
	}
	return 0
}

// runs returns the first limit runs of megabytes below end that are not marked,
// by offset.
func (u *usage) runs(end int64, limit int) []room {
	var out []room
	for m := int64(0); m < end/mib; {
		w := u.words[m/64] >> (m % 64)
		if w == ^uint64(0)>>(m%64) { // nothing free up to the word's end
			m += 64 - m%64
			continue
		}
		if w&1 != 0 {
			m += int64(bits.TrailingZeros64(^w))
			continue
		}
		n := min(int64(bits.TrailingZeros64(w)), 64-m%64, end/mib-m)
		if k := len(out) - 1; k >= 0 && out[k].end() == m*mib {
			out[k].n += n * mib
		} else if len(out) == limit {
			break
		} else {
			out = append(out, room{m * mib, n * mib})
		}
		m += n
	}
	return out
}
