package fscc

import "time"

// Filetime counts 100 ns since 1601-01-01 UTC (MS-FSCC 2.1.1).
type Filetime int64

// Values of a time in FileBasicInformation that are no times when set (MS-FSCC 2.4.7).
const (
	FiletimeUnchanged Filetime = 0  // leave the time as it is
	FiletimeFreeze    Filetime = -1 // leave it, and let no later operation on this open change it
	FiletimeThaw      Filetime = -2 // let later operations on this open change it again
)

const (
	filetimeEpoch  = -11644473600 // 1601-01-01 in Unix seconds
	ticksPerSecond = 10_000_000
)

// maxFiletimeSeconds is the last whole second a Filetime holds.
const maxFiletimeSeconds = (1<<63-1)/ticksPerSecond + filetimeEpoch

// FiletimeOf converts t, cut to 100 ns. The zero Time, times before 1601 and
// times a Filetime cannot hold give 0.
func FiletimeOf(t time.Time) Filetime {
	s := t.Unix()
	if s < filetimeEpoch || s >= maxFiletimeSeconds {
		return 0
	}
	return Filetime((s-filetimeEpoch)*ticksPerSecond + int64(t.Nanosecond()/100))
}

// Time converts f to UTC. Values that are no times (f <= 0) give the zero Time.
func (f Filetime) Time() time.Time {
	if f <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(f)/ticksPerSecond+filetimeEpoch, int64(f)%ticksPerSecond*100).UTC()
}

// IsTime tells a time to be set from the values of MS-FSCC 2.4.7 that leave it.
func (f Filetime) IsTime() bool { return f > 0 }

// ValidToSet reports whether f may stand in a set request: not below -2.
func (f Filetime) ValidToSet() bool { return f >= FiletimeThaw }
