package fs

import "context"

// Streams through what stands before a store.

func (f *faultFile) streamer() (Streamer, error) {
	if s, ok := f.inner.(Streamer); ok {
		return s, nil
	}
	return nil, fail("stream", f.name, ErrNotSupported)
}

func (f *faultFile) wrap(s Stream, name string, err error) (Stream, error) {
	if err != nil {
		return nil, err
	}
	file := &faultFile{inner: s, fault: f.fault, name: f.name + ":" + name}
	return &faultStream{faultFile: file, stream: s, base: f}, nil
}

func (f *faultFile) OpenStream(ctx context.Context, name string, access Access) (Stream, error) {
	inner, err := f.streamer()
	if err == nil {
		err = f.fault.ask(OpOpen, f.name+":"+name)
	}
	if err != nil {
		return nil, err
	}
	s, err := inner.OpenStream(ctx, name, access)
	return f.wrap(s, name, err)
}

func (f *faultFile) CreateStream(ctx context.Context, name string, opts StreamOptions) (Stream, error) {
	inner, err := f.streamer()
	if err == nil {
		err = f.fault.ask(OpCreate, f.name+":"+name)
	}
	if err != nil {
		return nil, err
	}
	s, err := inner.CreateStream(ctx, name, opts)
	return f.wrap(s, name, err)
}

func (f *faultFile) Streams(ctx context.Context) ([]StreamInfo, error) {
	inner, err := f.streamer()
	if err == nil {
		err = f.ask(OpStreams)
	}
	if err != nil {
		return nil, err
	}
	return inner.Streams(ctx)
}

type faultStream struct {
	*faultFile
	stream Stream
	base   *faultFile
}

func (s *faultStream) Base() File {
	return &faultFile{inner: s.stream.Base(), fault: s.fault, name: s.base.name}
}

func (s *faultStream) StreamName() (string, error) { return s.stream.StreamName() }

func (s *faultStream) RenameStream(ctx context.Context, newName string, replace bool) error {
	if err := s.fault.ask(OpRename, s.base.name+":"+newName); err != nil {
		return err
	}
	return s.stream.RenameStream(ctx, newName, replace)
}

func (f readOnlyFile) OpenStream(ctx context.Context, name string, access Access) (Stream, error) {
	if access&WriteData != 0 {
		return nil, refuse("open stream", f)
	}
	inner, ok := f.File.(Streamer)
	if !ok {
		return nil, fail("open stream", name, ErrNotSupported)
	}
	s, err := inner.OpenStream(ctx, name, access)
	if err != nil {
		return nil, err
	}
	return readOnlyStream{readOnlyFile{s}, s}, nil
}

func (f readOnlyFile) CreateStream(context.Context, string, StreamOptions) (Stream, error) {
	return nil, refuse("create stream", f)
}

func (f readOnlyFile) Streams(ctx context.Context) ([]StreamInfo, error) {
	inner, ok := f.File.(Streamer)
	if !ok {
		return nil, refuseStreams(f)
	}
	return inner.Streams(ctx)
}

func refuseStreams(f File) error {
	name, _ := f.Name()
	return fail("list streams", name, ErrNotSupported)
}

type readOnlyStream struct {
	readOnlyFile
	stream Stream
}

func (s readOnlyStream) Base() File                  { return readOnlyFile{s.stream.Base()} }
func (s readOnlyStream) StreamName() (string, error) { return s.stream.StreamName() }

func (s readOnlyStream) RenameStream(context.Context, string, bool) error {
	return refuse("rename stream", s)
}
