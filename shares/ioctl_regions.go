package shares

import (
	"context"
	"math"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// queryFileRegions tells what of a file has been written (MS-FSA 2.1.5.10.24).
// There is no valid data length here: what was written is known by the block, and
// everything else reads as zeroes, so that valid and other regions take turns.
func queryFileRegions(ctx context.Context, r *request, req *smb2.IoctlRequest) error {
	const usages = fscc.FILE_REGION_USAGE_VALID_CACHED_DATA | fscc.FILE_REGION_USAGE_VALID_NONCACHED_DATA
	o := r.open
	in := fscc.FileRegion{Length: math.MaxInt64, Usage: fscc.FILE_REGION_USAGE_VALID_CACHED_DATA}
	if len(req.Input) > 0 {
		if len(req.Input) < in.Size() {
			return smb2.StatusBufferTooSmall
		}
		if err := in.Decode(req.Input); err != nil {
			return smb2.StatusInvalidParameter
		}
	}
	if o.dir || in.Length == 0 || in.Usage&usages == 0 || in.Usage&^usages != 0 {
		return smb2.StatusInvalidParameter
	}
	w := regionWriter{usage: in.Usage, off: in.Offset}
	w.room = (int(req.MaxOutputResponse) - w.out.Size()) / in.Size()
	if w.room < 1 {
		return smb2.StatusBufferTooSmall
	}
	if o.access&smb2.FileReadData == 0 {
		return smb2.StatusAccessDenied // as for FSCTL_QUERY_ALLOCATED_RANGES, which tells less
	}
	return r.long(ctx, req, func(ctx context.Context) outcome {
		info, err := o.stat(ctx)
		if err != nil {
			return done(err)
		}
		if in.Offset > info.Size || in.Offset == info.Size && info.Size > 0 {
			return outcome{}
		}
		n := min(in.Length, info.Size-in.Offset)
		if err := o.file.Allocated(ctx, in.Offset, n, w.data); err != nil {
			return done(err)
		}
		w.end(in.Offset + n)
		status := smb2.StatusSuccess
		if int(w.out.Total) > len(w.out.Regions) {
			status = smb2.StatusBufferOverflow
		}
		return outcome{status: status, output: encoded(&w.out)}
	})
}

// regionWriter makes regions of the runs of data in a range: it counts all, and
// keeps the first room of them.
type regionWriter struct {
	out   fscc.FileRegions
	room  int
	usage uint32
	off   int64 // where the next region begins
}

func (w *regionWriter) data(off, n int64) error {
	w.add(off-w.off, 0)
	w.add(n, w.usage)
	return nil
}

// end closes the range. A file without a byte has one region, of none.
func (w *regionWriter) end(at int64) {
	if w.add(at-w.off, 0); w.out.Total == 0 {
		w.out.Total, w.out.Regions = 1, []fscc.FileRegion{{Offset: w.off}}
	}
}

func (w *regionWriter) add(n int64, usage uint32) {
	if n <= 0 {
		return
	}
	w.out.Total++
	if len(w.out.Regions) < w.room {
		w.out.Regions = append(w.out.Regions, fscc.FileRegion{Offset: w.off, Length: n, Usage: usage})
	}
	w.off += n
}
