package migrate

import (
	"context"

	"lunless/smbstore/block"
)

// Gentle paces work on disks that a guest uses as the copy of a live migration is
// paced: by what more requests bring, and by how long the guest's own take (see guard).
// The work has no more than parallel requests at a time. stop is called at its end;
// while it runs, nothing else may watch the slots.
func Gentle(ctx context.Context, disks []*block.Slot) (pace block.Pace, parallel int, stop func(), err error) {
	guest := &block.Latency{}
	watch := func(l *block.Latency) {
		for _, d := range disks {
			d.Watch(l)
		}
	}
	watch(guest)
	g := newGuard(&LiveOptions{})
	if err := g.learn(ctx, guest); err != nil {
		watch(nil)
		return nil, 0, nil, err
	}
	p := newPacer(&Options{})
	end := p.govern(ctx, guest, g, &Job{})
	return p, maxParallel, func() {
		end()
		watch(nil)
	}, nil
}
