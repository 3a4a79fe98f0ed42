package qemu

import (
	"context"
	"time"
)

// BlockStats counts what the guest asked of a disk since QEMU started.
type BlockStats struct {
	Reads, Writes, Flushes, Unmaps    uint64
	ReadBytes, WriteBytes, UnmapBytes uint64
	FailedReads, FailedWrites         uint64
	FailedFlushes                     uint64
	ReadTime, WriteTime, FlushTime    time.Duration // added up over the requests
	Idle                              time.Duration // since the last request; 0 before the first
}

// BlockStats returns the counters of each disk by its block node.
func (m *Machine) BlockStats(ctx context.Context) (map[string]BlockStats, error) {
	var answer []struct {
		Node  string `json:"node-name"`
		Stats struct {
			Reads         uint64 `json:"rd_operations"`
			Writes        uint64 `json:"wr_operations"`
			Flushes       uint64 `json:"flush_operations"`
			Unmaps        uint64 `json:"unmap_operations"`
			ReadBytes     uint64 `json:"rd_bytes"`
			WriteBytes    uint64 `json:"wr_bytes"`
			UnmapBytes    uint64 `json:"unmap_bytes"`
			FailedReads   uint64 `json:"failed_rd_operations"`
			FailedWrites  uint64 `json:"failed_wr_operations"`
			FailedFlushes uint64 `json:"failed_flush_operations"`
			ReadTime      int64  `json:"rd_total_time_ns"`
			WriteTime     int64  `json:"wr_total_time_ns"`
			FlushTime     int64  `json:"flush_total_time_ns"`
			Idle          int64  `json:"idle_time_ns"`
		} `json:"stats"`
	}
	if err := m.Execute(ctx, "query-blockstats", nil, &answer); err != nil {
		return nil, err
	}
	stats := map[string]BlockStats{}
	for _, a := range answer {
		s := a.Stats
		stats[a.Node] = BlockStats{Reads: s.Reads, Writes: s.Writes, Flushes: s.Flushes, Unmaps: s.Unmaps,
			ReadBytes: s.ReadBytes, WriteBytes: s.WriteBytes, UnmapBytes: s.UnmapBytes,
			FailedReads: s.FailedReads, FailedWrites: s.FailedWrites, FailedFlushes: s.FailedFlushes,
			ReadTime: time.Duration(s.ReadTime), WriteTime: time.Duration(s.WriteTime), FlushTime: time.Duration(s.FlushTime),
			Idle: time.Duration(s.Idle)}
	}
	return stats, nil
}
