package nbd

// Names and values of the protocol are those of its document, doc/proto.md of
// NetworkBlockDevice/nbd. All integers are big-endian.

// Magic numbers.
const (
	magicServer      = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption      = 0x49484156454f5054 // "IHAVEOPT"
	magicOptionReply = 0x3e889045565a9
	magicRequest     = 0x25609513
	magicSimple      = 0x67446698
	magicStructured  = 0x668e33ef
)

// Handshake flags, the server's and the client's.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Options.
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10
)

// Replies to options.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4

	repErrUnsup    = 1<<31 + 1
	repErrPolicy   = 1<<31 + 2
	repErrInvalid  = 1<<31 + 3
	repErrTLSReqd  = 1<<31 + 5
	repErrUnknown  = 1<<31 + 6
	repErrShutdown = 1<<31 + 7
	repErrTooBig   = 1<<31 + 9
)

// Information items of INFO and GO.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Transmission flags.
const (
	txHasFlags        = 1 << 0
	txReadOnly        = 1 << 1
	txSendFlush       = 1 << 2
	txSendFUA         = 1 << 3
	txSendTrim        = 1 << 5
	txSendWriteZeroes = 1 << 6
	txSendDF          = 1 << 7
	txCanMultiConn    = 1 << 8
	txSendCache       = 1 << 10
	txSendFastZero    = 1 << 11
)

// command is a request's type.
type command uint16

const (
	cmdRead command = iota
	cmdWrite
	cmdDisc
	cmdFlush
	cmdTrim
	cmdCache
	cmdWriteZeroes
	cmdBlockStatus
	commands // how many
)

func (c command) String() string {
	names := [commands]string{"read", "write", "disconnect", "flush", "trim", "cache", "write zeroes", "block status"}
	if c < commands {
		return names[c]
	}
	return "unknown command"
}

// changes tells whether a command is refused on a read-only export.
func (c command) changes() bool { return c == cmdWrite || c == cmdTrim || c == cmdWriteZeroes }

// Command flags.
const (
	cmdFlagFUA      = 1 << 0
	cmdFlagNoHole   = 1 << 1
	cmdFlagDF       = 1 << 2
	cmdFlagReqOne   = 1 << 3
	cmdFlagFastZero = 1 << 4
)

// Structured replies.
const (
	replyFlagDone = 1 << 0

	replyNone        = 0
	replyOffsetData  = 1
	replyOffsetHole  = 2
	replyBlockStatus = 5
	replyError       = 1<<15 + 1
)

// States of base:allocation.
const (
	stateHole = 1 << 0
	stateZero = 1 << 1
)

const (
	contextAllocation = "base:allocation"
	contextID         = 1
)

// Sizes in bytes.
const (
	requestSize    = 28
	simpleSize     = 16
	chunkSize      = 20 // of a structured chunk's header
	maxString      = 4096
	maxPayload     = 32 << 20
	optionSize     = 16
	exportZeroes   = 124
	descriptorSize = 8
)
