package shares

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"lunless/smbstore/smb2"
)

func TestGateDrains(t *testing.T) {
	for range 200 {
		var g gate
		var inside, after sync.WaitGroup
		for range 4 {
			if g.enter(0, false, true) != nil {
				t.Fatal("an open gate lets nobody in")
			}
			inside.Add(1)
			after.Add(1)
			go func() {
				defer after.Done()
				inside.Done()
				g.leave(0)
				if g.enter(0, false, true) == nil {
					g.leave(0)
				}
			}()
		}
		inside.Wait()
		g.drain()
		if g.enter(0, false, true) == nil {
			t.Fatal("a gate that is shut lets somebody in")
		}
		if n := g.word.Load() & gateCounts; n != 0 {
			t.Fatalf("%d inside after drain", n)
		}
		after.Wait()
	}
}

// TestChannelSequence holds gate against MS-SMB2 3.3.5.2.10, step by step.
func TestChannelSequence(t *testing.T) {
	type step struct {
		seq             uint16
		replay, changes bool
		want            smb2.Status
	}
	const na = smb2.StatusFileNotAvailable
	for _, tt := range []struct {
		name  string
		start uint16
		steps []step
	}{
		{"same", 7, []step{{7, false, true, 0}, {7, false, true, 0}}},
		{"newer", 7, []step{{7, false, true, 0}, {8, false, true, 0}}},
		{"older write", 7, []step{{6, false, true, na}, {7, false, true, 0}}},
		{"older read", 7, []step{{6, false, false, 0}}},
		{"round the corner", 0xffff, []step{{0, false, true, 0}, {0xffff, false, true, na}}},
		{"half way", 0, []step{{0x7fff, false, true, 0}}},
		{"beyond half way", 0, []step{{0x8000, false, true, na}}},
		{"replay, nothing earlier", 7, []step{{7, true, true, 0}}},
		{"replay of a newer one, nothing outstanding", 7, []step{{8, true, true, 0}}},
		{"replay while the earlier is under way", 7, []step{{7, false, true, 0}, {8, true, true, na}, {8, true, true, na}, {8, false, true, 0}}},
		{"replay behind a newer one", 7, []step{{7, false, true, 0}, {8, false, true, 0}, {8, true, true, na}, {8, true, false, 0}}},
		{"older replay", 7, []step{{6, true, true, na}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f gate
			f.start(tt.start)
			if f.start(tt.start + 1); f.sequence() != tt.start {
				t.Fatalf("sequence %d, want the first, %d", f.sequence(), tt.start)
			}
			var begun []uint16
			for i, s := range tt.steps {
				err := f.enter(s.seq, s.replay, s.changes)
				if got, _ := err.(smb2.Status); got != s.want {
					t.Fatalf("step %d: %v, want %v", i, err, s.want)
				}
				if err == nil {
					begun = append(begun, s.seq)
				}
			}
			f.shut()
			idle := *f.idle.Load()
			for i, seq := range begun {
				select {
				case <-idle:
					t.Fatalf("drained with %d requests in flight", len(begun)-i)
				default:
				}
				f.leave(seq)
			}
			<-idle
		})
	}
}

// TestGateCounts lets random requests begin and end, with sequences that go all
// the way round, and demands that an open is drained exactly when none is left.
func TestGateCounts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var f gate
		f.start(uint16(rnd.Uint32()))
		var begun []uint16
		seq := uint16(0)
		for range 300 {
			if rnd.IntN(3) == 0 {
				seq += uint16(rnd.Uint32N(0x9000))
			}
			if len(begun) > 0 && rnd.IntN(2) == 0 {
				i := rnd.IntN(len(begun))
				f.leave(begun[i])
				begun = append(begun[:i], begun[i+1:]...)
			}
			if f.enter(seq, rnd.IntN(4) == 0, rnd.IntN(2) == 0) == nil {
				begun = append(begun, seq)
			}
		}
		f.shut()
		idle := *f.idle.Load()
		if err := f.enter(seq, false, false); err != smb2.StatusFileClosed {
			t.Fatalf("began while it was draining: %v", err)
		}
		for _, s := range begun {
			select {
			case <-idle:
				t.Fatal("drained too early")
			default:
			}
			f.leave(s)
		}
		select {
		case <-idle:
		default:
			t.Fatal("nothing is in flight, and it is not drained")
		}
	}
}

func TestGateAllocatesNothing(t *testing.T) {
	var f gate
	f.start(1)
	if n := testing.AllocsPerRun(100, func() {
		f.enter(1, false, true)
		f.leave(1)
	}); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}
