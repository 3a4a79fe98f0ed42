package fs

// Wrapper is implemented by Files that stand before another File, so that a
// store finds its own in what it is given.
type Wrapper interface {
	File
	Unwrap() File
}

// unwrap returns the innermost File.
func unwrap(f File) File {
	for {
		w, ok := f.(Wrapper)
		if !ok {
			return f
		}
		f = w.Unwrap()
	}
}

// own returns the posixFile behind f if it is an open object of p.
func (p *POSIX) own(f File) (*posixFile, error) {
	pf, ok := unwrap(f).(*posixFile)
	if !ok || pf.fs != p {
		return nil, ErrInvalid
	}
	return pf, nil
}
