package smb2

import "fmt"

// Command is a command code (MS-SMB2 2.2.1.2).
type Command uint16

// Commands.
const (
	CommandNegotiate      Command = 0x0000
	CommandSessionSetup   Command = 0x0001
	CommandLogoff         Command = 0x0002
	CommandTreeConnect    Command = 0x0003
	CommandTreeDisconnect Command = 0x0004
	CommandCreate         Command = 0x0005
	CommandClose          Command = 0x0006
	CommandFlush          Command = 0x0007
	CommandRead           Command = 0x0008
	CommandWrite          Command = 0x0009
	CommandLock           Command = 0x000A
	CommandIoctl          Command = 0x000B
	CommandCancel         Command = 0x000C
	CommandEcho           Command = 0x000D
	CommandQueryDirectory Command = 0x000E
	CommandChangeNotify   Command = 0x000F
	CommandQueryInfo      Command = 0x0010
	CommandSetInfo        Command = 0x0011
	CommandOplockBreak    Command = 0x0012
	CommandNotification   Command = 0x0013 // server to client only (MS-SMB2 2.2.44)
)

// NumCommands is the number of commands a client may send: 0 to NumCommands-1.
const NumCommands = 0x13

// CommandInfo is what is fixed about a command's request.
type CommandInfo struct {
	Name          string
	StructureSize uint16 // of the request
	FixedSize     int    // bytes of the body that every request has, StructureSize field included
}

// Commands says of each command what a server checks before it looks further
// (MS-SMB2 3.3.5.2.6), indexed by Command. OPLOCK_BREAK has two requests: this is
// the oplock's acknowledgment, the lease's is larger.
var Commands = [NumCommands]CommandInfo{
	CommandNegotiate:      {"NEGOTIATE", 36, 36},
	CommandSessionSetup:   {"SESSION_SETUP", 25, 24},
	CommandLogoff:         {"LOGOFF", 4, 4},
	CommandTreeConnect:    {"TREE_CONNECT", 9, 8},
	CommandTreeDisconnect: {"TREE_DISCONNECT", 4, 4},
	CommandCreate:         {"CREATE", 57, 56},
	CommandClose:          {"CLOSE", 24, 24},
	CommandFlush:          {"FLUSH", 24, 24},
	CommandRead:           {"READ", 49, 48},
	CommandWrite:          {"WRITE", 49, 48},
	CommandLock:           {"LOCK", 48, 24},
	CommandIoctl:          {"IOCTL", 57, 56},
	CommandCancel:         {"CANCEL", 4, 4},
	CommandEcho:           {"ECHO", 4, 4},
	CommandQueryDirectory: {"QUERY_DIRECTORY", 33, 32},
	CommandChangeNotify:   {"CHANGE_NOTIFY", 32, 32},
	CommandQueryInfo:      {"QUERY_INFO", 41, 40},
	CommandSetInfo:        {"SET_INFO", 33, 32},
	CommandOplockBreak:    {"OPLOCK_BREAK", 24, 24},
}

func (c Command) String() string {
	switch {
	case c < NumCommands:
		return Commands[c].Name
	case c == CommandNotification:
		return "SERVER_TO_CLIENT_NOTIFICATION"
	}
	return fmt.Sprintf("command 0x%04X", uint16(c))
}

// CheckRequest checks a request's StructureSize and fixed part by its header's
// command: ErrValue for an unknown command, ErrTruncated, ErrStructureSize.
func CheckRequest(c Command, msg []byte) error {
	if c >= NumCommands {
		return &DecodeError{What: "request", Field: "Command", Err: ErrValue}
	}
	info := &Commands[c]
	if len(msg) < HeaderSize+info.FixedSize {
		return &DecodeError{What: info.Name + " request", Err: ErrTruncated}
	}
	size := le.Uint16(msg[HeaderSize:])
	if size == info.StructureSize {
		return nil
	}
	if c == CommandOplockBreak && size == leaseBreakAckSize {
		if len(msg) < HeaderSize+leaseBreakAckSize {
			return &DecodeError{What: info.Name + " request", Err: ErrTruncated}
		}
		return nil
	}
	return &DecodeError{What: info.Name + " request", Err: ErrStructureSize}
}

// Message is the contract of every message body; see the package comment.
type Message interface {
	Size() int
	Encode(msg []byte)
	Decode(msg []byte) error
}
