package state

import "slices"

// AddStreamOpen adds an open of one of the file's alternate data streams to the
// file's record; the stream's own has another one, by AddOpen. It fails with
// ErrDeletePending where the link is going, ErrSharingViolation where an open
// that may delete the file is there and the new one does not share that (MS-FSA
// 2.1.5.1.2.1), ErrTooManyOpens. RemoveOpen ends it.
func AddStreamOpen(o Open) Change {
	return func(r Record) (Record, Effects, error) {
		o.OfStream = true
		switch {
		case slices.Contains(r.Deleting, o.Link):
			return r, Effects{}, ErrDeletePending
		case len(r.Opens) >= MaxOpens:
			return r, Effects{}, ErrTooManyOpens
		case slices.ContainsFunc(r.Opens, func(other Open) bool { return excludes(&o, &other) }):
			return r, Effects{}, ErrSharingViolation
		}
		r.Opens = append(slices.Clip(r.Opens), o)
		return r, Effects{}, nil
	}
}

// OpenAlone fails with ErrSharingViolation if others have the file open, itself or its streams.
func OpenAlone(id OpenID) Change {
	return func(r Record) (Record, Effects, error) {
		if slices.ContainsFunc(r.Opens, func(o Open) bool { return o.ID != id }) {
			return r, Effects{}, ErrSharingViolation
		}
		return r, Effects{}, nil
	}
}

// fileOpens counts the opens of the file itself.
func (r *Record) fileOpens() (n int) {
	for i := range r.Opens {
		if !r.Opens[i].OfStream {
			n++
		}
	}
	return n
}

// preventsDelete says whether the open of a stream keeps the file's own from
// deleting it.
func preventsDelete(stream, file *Open) bool {
	return stream.OfStream && stream.Share&ShareDelete == 0 && file.Access&Delete != 0
}
