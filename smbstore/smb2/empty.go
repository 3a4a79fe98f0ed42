package smb2

// The bodies that hold nothing but their StructureSize, 4, and two reserved bytes.
const (
	emptySize = 4
)

func encodeEmpty(msg []byte) {
	w := putBody(msg, emptySize)
	w.u16(0)
}

func decodeEmpty(msg []byte, what string) error {
	r := body(msg, what, emptySize, emptySize)
	return r.err
}
