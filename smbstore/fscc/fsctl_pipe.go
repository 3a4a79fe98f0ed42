package fscc

// PipeWait is the FSCTL_PIPE_WAIT request (MS-FSCC 2.3.49).
type PipeWait struct {
	Timeout          int64 // units of 100 ms; meant only if TimeoutSpecified
	TimeoutSpecified bool
	Name             string // without \pipe\
}

func (i *PipeWait) Size() int { return 14 + UTF16Len(i.Name) }

func (i *PipeWait) Encode(dst []byte) {
	w := writer{b: dst}
	w.i64(i.Timeout)
	w.u32(uint32(UTF16Len(i.Name)))
	w.boolean(i.TimeoutSpecified)
	w.u8(0)
	w.name(i.Name)
}

func (i *PipeWait) Decode(b []byte) error {
	r := reader{b: b}
	i.Timeout = r.i64()
	n := r.u32()
	i.TimeoutSpecified = r.boolean()
	r.skip(1)
	i.Name = r.name(n)
	return r.done("FSCTL_PIPE_WAIT")
}

// PipePeek is the FSCTL_PIPE_PEEK reply (MS-FSCC 2.3.46).
type PipePeek struct {
	State             uint32 // FILE_PIPE_CONNECTED_STATE, FILE_PIPE_CLOSING_STATE
	ReadDataAvailable uint32 // bytes
	Messages          uint32
	MessageLength     uint32 // of the first one
	Data              []byte // a view
}

func (i *PipePeek) Size() int { return 16 + len(i.Data) }

func (i *PipePeek) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(i.State)
	w.u32(i.ReadDataAvailable)
	w.u32(i.Messages)
	w.u32(i.MessageLength)
	w.bytes(i.Data)
}

func (i *PipePeek) Decode(b []byte) error {
	r := reader{b: b}
	*i = PipePeek{State: r.u32(), ReadDataAvailable: r.u32(), Messages: r.u32(), MessageLength: r.u32()}
	i.Data = r.take(len(b) - r.off)
	return r.done("FSCTL_PIPE_PEEK")
}
