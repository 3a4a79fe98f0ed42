package shares

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"lunless/smbstore/smb2"
)

// phase is how far a connection has come when mutated messages are sent on it.
type phase int

const (
	fresh     phase = iota // nothing has been sent
	bargained              // NEGOTIATE is done
	logonLeg               // the first leg of the authentication is done
	anonymous              // as nobody, on IPC$
	unsigned               // authenticated, and not signed or signed wrongly
	signed                 // mutated, then signed
	sealed                 // mutated, then encrypted
	transform              // encrypted, then mutated
	numPhases
)

var phaseNames = [numPhases]string{"fresh", "negotiated", "logon", "anonymous", "unsigned", "signed", "sealed", "transform"}

func (p phase) String() string { return phaseNames[p] }

// length is how many messages a sender stays in the phase for.
func (p phase) length() int {
	switch p {
	case fresh, bargained, logonLeg:
		return 120
	case unsigned, transform:
		return 40
	case anonymous:
		return 80
	}
	return 250
}

// row is a line of the table.
type row struct {
	phase   phase
	command string
}

// tally counts messages by what came of them.
type tally struct{ sent, ok, warning, failed, pending, unanswered, lost int }

// pduSender is one of the clients that send mutated messages.
type pduSender struct {
	run   *pduRun
	id    int
	m     mutator
	phase phase
	left  int // messages until the next phase
	used  int // messages on this connection
	names int
	c     *pduClient
	prev  []byte // a message to splice with
}

func (s *pduSender) drop() {
	if s.c != nil {
		s.c.close()
		s.c = nil
	}
}

// round sends n mutated messages.
func (s *pduSender) round(n int) {
	for n > 0 {
		if s.run.givesUp() {
			return
		}
		if s.left--; s.left < 0 {
			s.drop()
			s.phase = pick(s.m, fresh, bargained, logonLeg, anonymous, unsigned, signed, signed, sealed, sealed, transform)
			s.left = s.phase.length()
		}
		if s.c == nil {
			if err := s.connect(); err != nil {
				s.run.fail("%v client cannot start: %v", s.phase, err)
				s.drop()
				continue
			}
		}
		if (s.phase == signed || s.phase == sealed) && n > 8 && s.m.IntN(16) == 0 {
			n -= s.burst()
			continue
		}
		s.step()
		n--
	}
}

// connect brings a connection into the phase.
func (s *pduSender) connect() (err error) {
	s.used = 0
	if s.c, err = dialPDU(s.run.srv.addr, s.m, s.run.answer); err != nil || s.phase == fresh {
		return err
	}
	c, list := s.c, dialects
	if s.phase == sealed || s.phase == transform {
		list = dialects[:3]
	}
	if err := c.negotiate(pick(s.m, list...)); err != nil {
		return fmt.Errorf("negotiate: %w", err)
	}
	switch s.phase {
	case bargained, logonLeg:
		return nil
	case anonymous:
		if err := c.login(""); err != nil {
			return fmt.Errorf("logon: %w", err)
		}
		return c.furnish("", "")
	}
	if err := c.login(testUser); err != nil {
		return fmt.Errorf("logon: %w", err)
	}
	c.sign, c.seal = true, s.phase == sealed || s.phase == transform
	s.names++
	share := "vms"
	if c.seal && s.m.IntN(2) == 0 {
		share = "sealed"
	}
	if err := c.furnish(share, fmt.Sprintf("f%d-%d", s.id, s.names)); err != nil {
		// What is shared may have come to deny its user everything.
		if ignored := s.run.allow(); ignored != nil || errors.Is(err, errSilent) || errors.Is(err, errLost) {
			return err
		}
		if err := c.furnish(share, fmt.Sprintf("g%d-%d", s.id, s.names)); err != nil {
			return err
		}
	}
	c.sign = s.phase != unsigned
	return nil
}

// message is a valid request of the phase.
func (s *pduSender) message() (seed, error) {
	c := s.c
	switch s.phase {
	case fresh:
		return c.firstSeed(), nil
	case bargained:
		if s.m.IntN(8) == 0 {
			return seed{"NEGOTIATE", c.pdu(smb2.CommandNegotiate, 0, c.negotiateRequest(), nil, 0), 0}, nil
		}
		if s.m.IntN(4) == 0 {
			return c.seed(), nil
		}
		user := pick(s.m, testUser, "nobody", "")
		msg, at, err := c.newLogon(user).next()
		return seed{"SESSION_SETUP (1)", msg, at}, err
	case logonLeg:
		c.session = 0
		l := c.newLogon(pick(s.m, testUser, testUser, "nobody", ""))
		first, _, err := l.next()
		if err != nil {
			return seed{}, err
		}
		r, err := c.call(first)
		if err != nil {
			return seed{}, err
		}
		if _, err := l.answered(first, r); err != nil {
			return seed{}, err
		}
		msg, at, err := l.next()
		return seed{"SESSION_SETUP (2)", msg, at}, err
	}
	return c.seed(), nil
}

// step sends one mutated message and sees what becomes of it.
func (s *pduSender) step() {
	valid, err := s.message()
	if err != nil {
		s.run.fail("%v client: a valid message: %v", s.phase, err)
		s.drop()
		return
	}
	msg := s.mutated(&valid)
	s.prev = valid.msg
	list, err := s.exchange(&valid, msg)
	s.used++
	s.count(valid.name, list, err)
	if err == nil {
		err = s.after(list, msg)
	}
	s.settle(valid.name, msg, err)
	// Each may leave a session half set up, of which a stranger may have so many.
	if s.phase == fresh || s.phase <= logonLeg && s.used >= maxUnauthSessions {
		s.drop()
	}
}

// settle reports what should not have come of a message, and gives up a
// connection that cannot go on.
func (s *pduSender) settle(name string, msg []byte, err error) {
	switch {
	case err == nil:
		return
	case errors.Is(err, errLost):
		if s.run.log.panics.Load() > 0 {
			s.run.fail("%v %s: panic\n%s", s.phase, name, dump(msg))
		}
	default:
		s.run.fail("%v %s: %v\n%s", s.phase, name, err, dump(msg))
	}
	s.drop()
}

// burst sends several mutated messages at once, so that they are worked on at the
// same time, and returns how many.
func (s *pduSender) burst() int {
	c := s.c
	var names []string
	var ids []uint64
	var sent [][]byte
	var wire []byte
	owner := map[uint64]int{} // which message an id is of
	n := 2 + s.m.IntN(7)
	for i := range n {
		valid := c.seed()
		msg := s.mutated(&valid)
		s.prev = valid.msg
		for _, id := range expected(msg) {
			ids, owner[id] = append(ids, id), i
		}
		names, sent = append(names, valid.name+" (burst)"), append(sent, msg)
		frame := c.protect(slices.Clone(msg))
		wire = append(binary.BigEndian.AppendUint32(wire, uint32(len(frame))), frame...)
	}
	var list []response
	err := c.raw(wire)
	if err == nil {
		list, err = c.await(ids)
	}
	answers := make([][]response, n)
	for _, r := range list {
		i := owner[r.hdr.MessageID]
		answers[i] = append(answers[i], r)
	}
	for i, name := range names {
		if len(answers[i]) > 0 {
			s.count(name, answers[i], nil)
		} else {
			s.count(name, nil, err)
		}
	}
	if err == nil {
		err = s.after(list, sent...)
	}
	s.settle(strings.Join(names, ", "), bytes.Join(sent, nil), err)
	return n
}

// mutated is a message with changes in one part of it, most often the innermost.
func (s *pduSender) mutated(valid *seed) []byte {
	lo := smb2.HeaderSize + 2
	switch k := s.m.IntN(20); {
	case valid.focus > 0 && k < 10:
		lo = valid.focus
	case k == 19 || s.phase == fresh && k > 14:
		lo = 0
	case k == 18:
		lo = 4
	case k == 17:
		lo = smb2.HeaderSize
	}
	if valid.name == "compound" && s.m.IntN(2) == 0 {
		lo = s.m.IntN(len(valid.msg))
	}
	for {
		msg := s.m.mutate(valid.msg, min(lo, len(valid.msg)), s.prev)
		if lo > smb2.HeaderSize && s.m.IntN(8) > 0 {
			keepFileID(msg, valid.msg)
		}
		if !bytes.Equal(msg, valid.msg) {
			return msg
		}
	}
}

// keepFileID undoes changes to the FileId, without which few handlers get to see the rest.
func keepFileID(msg, valid []byte) {
	code := binary.LittleEndian.Uint16(valid[12:])
	if code >= smb2.NumCommands {
		return
	}
	if at := commands[code].fileIDAt; at > 0 && len(msg) >= at+16 && len(valid) >= at+16 {
		copy(msg[at:], valid[at:at+16])
	}
}

func dump(msg []byte) string {
	if len(msg) > 1024 {
		return hex.Dump(msg[:1024]) + fmt.Sprintf("and %d bytes more", len(msg)-1024)
	}
	return hex.Dump(msg)
}

// exchange sends the message as the phase has it, and waits for what has to come.
func (s *pduSender) exchange(valid *seed, msg []byte) ([]response, error) {
	c := s.c
	ids := expected(msg)
	frame := c.protect(slices.Clone(msg))
	switch {
	case s.phase == transform:
		frame = s.m.mutate(frame, pick(s.m, 0, 4, 36), nil)
	case s.phase == unsigned && s.m.IntN(2) == 0 && len(frame) >= smb2.HeaderSize:
		split(frame, c.signer.Sign)
		frame[pick(s.m, 8, 48, 63)]++
	}
	if s.m.IntN(50) == 0 { // the length is a lie
		valid.name = "frame length"
		n := uint32(len(frame)) + pick(s.m, 1, 4, 100, 1<<16, 1<<23, ^uint32(0), ^uint32(3))
		if err := c.raw(append(binary.BigEndian.AppendUint32(nil, pick(s.m, n, n, n, s.m.Uint32())), frame...)); err != nil {
			return nil, err
		}
		return nil, c.half()
	}
	if err := c.send(frame); err != nil {
		return nil, err
	}
	if s.phase == transform {
		return nil, c.half()
	}
	if ids == nil { // no answer: the next request's shows that all is well
		_, err := c.call(c.pdu(smb2.CommandEcho, 0, &smb2.EchoRequest{}, nil, 0))
		return nil, err
	}
	return c.await(ids)
}

// count enters the outcome of a message into the table.
func (s *pduSender) count(name string, list []response, err error) {
	run := s.run
	run.mu.Lock()
	defer run.mu.Unlock()
	run.sent++
	key := row{s.phase, name}
	if run.rows[key] == nil {
		run.rows[key] = &tally{}
	}
	t := run.rows[key]
	t.sent++
	switch {
	case errors.Is(err, errLost):
		t.lost++
	case err != nil:
	case len(list) == 0:
		t.unanswered++
	default:
		run.statuses[list[0].hdr.Status]++
		switch st := list[0].hdr.Status; {
		case st == smb2.StatusPending:
			t.pending++
		case st.IsError():
			t.failed++
		case st.IsWarning():
			t.warning++
		default:
			t.ok++
		}
	}
}

// after takes notice of what a message has done to the connection's world.
func (s *pduSender) after(list []response, sent ...[]byte) error {
	c, w := s.c, &s.c.world
	stale := false
	for i := range list {
		r := &list[i]
		ok := r.hdr.Status == smb2.StatusSuccess
		switch r.hdr.Command {
		case smb2.CommandCreate:
			var m smb2.CreateResponse
			if ok && m.Decode(r.msg) == nil {
				w.made = append(w.made, m.FileID)
				w.made = w.made[max(0, len(w.made)-24):]
			}
		case smb2.CommandClose:
			stale = stale || ok && closes(sent, w.file, w.again, w.folder, w.pipe)
		case smb2.CommandLogoff, smb2.CommandTreeDisconnect:
			stale = stale || ok
		case smb2.CommandSessionSetup:
			stale = stale || s.phase > logonLeg || ok
		}
		stale = stale || s.phase > logonLeg && r.hdr.SessionID == c.session && r.hdr.Status == smb2.StatusUserSessionDeleted
	}
	for id := range c.pending {
		if s.m.IntN(3) > 0 || len(c.pending) > 8 {
			if err := c.cancel(id); err != nil {
				return fmt.Errorf("after CANCEL: %w", err)
			}
		}
	}
	if stale {
		s.drop()
		return nil
	}
	if len(list) > 0 && list[0].hdr.Status == smb2.StatusPipeDisconnected {
		err := c.openPipe(pick(c.m, "srvsvc", "lsarpc"))
		if errors.Is(err, smb2.StatusInsufficientResources) { // those that mutated messages opened are in the way
			s.drop()
			return nil
		}
		return err
	}
	return nil
}

// closes says whether one of the messages is a CLOSE of one of the files.
func closes(sent [][]byte, files ...smb2.FileID) (found bool) {
	for _, msg := range sent {
		split(msg, func(one []byte) {
			var q smb2.CloseRequest
			if len(one) >= 88 && q.Decode(one) == nil {
				found = found || slices.Contains(files, q.FileID)
			}
		})
	}
	return found
}

// table prints what was sent and what came of it.
func (run *pduRun) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "phase\tcommand\tsent\tsuccess\twarning\terror\tpending\tno answer due\tconnection lost\t")
	line := func(phase, command string, t tally) {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", phase, command, t.sent, t.ok, t.warning, t.failed, t.pending, t.unanswered, t.lost)
	}
	keys := make([]row, 0, len(run.rows))
	var sum tally
	for k, t := range run.rows {
		keys = append(keys, k)
		sum = tally{sum.sent + t.sent, sum.ok + t.ok, sum.warning + t.warning, sum.failed + t.failed,
			sum.pending + t.pending, sum.unanswered + t.unanswered, sum.lost + t.lost}
	}
	slices.SortFunc(keys, func(a, b row) int {
		if a.phase != b.phase {
			return int(a.phase - b.phase)
		}
		return strings.Compare(a.command, b.command)
	})
	for _, k := range keys {
		line(k.phase.String(), k.command, *run.rows[k])
	}
	line("all", "", sum)
	w.Flush()
	statuses := slices.SortedFunc(maps.Keys(run.statuses), func(a, b smb2.Status) int { return run.statuses[b] - run.statuses[a] })
	fmt.Fprintf(&b, "\n%8s  answered with\n", "messages")
	for _, st := range statuses {
		fmt.Fprintf(&b, "%8d  %v\n", run.statuses[st], st)
	}
	return b.String()
}
