package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"lunless/smbstore"
)

// TestScripts drives the program as people do. Beside testscript's own commands
// the scripts have those of scriptCommands.
func TestScripts(t *testing.T) {
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(file)+":"+e.Getenv("PATH"))
			e.Setenv("LUNLESS_PASSWORD", testPassword)
			e.Setenv("USER", testUser) // smbclient's, with PASSWD
			e.Setenv("PASSWD", testPassword)
			bin := filepath.Join(e.WorkDir, ".bin")
			e.Setenv("PATH", bin+":"+e.Getenv("PATH"))
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			for name, text := range scriptPrograms {
				if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
					return err
				}
			}
			e.Values[scriptServers{}] = map[string]*scriptServer{}
			return nil
		},
		Cmds:                scriptCommands,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// scriptPrograms are Samba's clients (testdata/peers.sh installs them) for a
// server's host:port, with the account in the environment.
var scriptPrograms = map[string]string{
	"smbclient-at": "#!/bin/sh\na=$1 s=$2 c=$3; shift 3\nexec smbclient \"//${a%:*}/$s\" -p ${a##*:} -U $USER%$PASSWD -c \"$c\" \"$@\"\n",
	"noseal-at":    "#!/bin/sh\nexec smbclient-at \"$@\" -m SMB3_11 --client-protection=sign '--option=client smb3 encryption algorithms=none'\n",
	"smblist-at":   "#!/bin/sh\nexec smbclient -L ${1%:*} -p ${1##*:}\n",
	"rpcclient-at": "#!/bin/sh\nexec rpcclient ${1%:*} -p ${1##*:} -U $USER%$PASSWD -c \"$2\"\n",
	"knock-at":     "#!/bin/bash\nexec 3<>/dev/tcp/${1%:*}/${1##*:}\n",
}

var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"status":     scriptStatus,
	"serve":      scriptServe,
	"export":     scriptExport,
	"stopserver": scriptStopServer,
	"random":     scriptRandom,
	"damage":     scriptDamage,
	"same":       scriptSame,
	"json":       scriptJSON,
	"eventually": scriptEventually,
	"freeport":   scriptFreePort,
	"holdport":   scriptHoldPort,
	"lines":      scriptLines,
}

// status CODE PROGRAM ARGS... runs a program and wants that very exit status.
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE PROGRAM ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("exit status %d, want %s", code, want)
	}
}

// scriptServer is a `lunless serve` of a script.
type scriptServer struct {
	cmd      *exec.Cmd
	out, log *syncBuffer
	ended    chan struct{}
}

// scriptServers is the key of a script's map[string]*scriptServer, by name.
type scriptServers struct{}

// serve NAME FLAGS... starts `lunless serve` and sets $NAME to its host:port.
func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: serve NAME FLAGS...")
	}
	scriptStart(ts, args[0], append([]string{"serve"}, args[1:]...))
}

// export NAME FLAGS... starts `lunless disk export` and sets $NAME to its URI.
func scriptExport(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: export NAME FLAGS...")
	}
	scriptStart(ts, args[0], append([]string{"disk", "export"}, args[1:]...))
}

// scriptStart starts the program, which says where it serves, as a server of that name.
func scriptStart(ts *testscript.TestScript, name string, args []string) {
	file, err := binary()
	ts.Check(err)
	s := &scriptServer{cmd: exec.Command(file, args...), out: &syncBuffer{}, log: &syncBuffer{},
		ended: make(chan struct{})}
	s.cmd.Dir = ts.MkAbs(".")
	s.cmd.Env = append(os.Environ(), smbstore.PasswordVariable+"="+ts.Getenv(smbstore.PasswordVariable))
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.log
	ts.Check(s.cmd.Start())
	go func() { _ = s.cmd.Wait(); close(s.ended) }()
	ts.Value(scriptServers{}).(map[string]*scriptServer)[name] = s
	ts.Defer(func() { _ = s.cmd.Process.Kill(); <-s.ended })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if line, _, ok := strings.Cut(s.out.String(), "\n"); ok {
			addr, ok := strings.CutPrefix(line, "serving ")
			if !ok {
				ts.Fatalf("%s printed %q", name, line)
			}
			ts.Setenv(name, addr)
			return
		}
		select {
		case <-s.ended:
			ts.Fatalf("%s ended: %v\n%s", name, s.cmd.ProcessState, s.log)
		default:
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s does not become ready\n%s", name, s.log)
		}
	}
}

// stopserver [-kill] NAME [LOGFILE] stops a server in order, wants exit status 0
// and one line of output for all its life, and keeps its log.
func scriptStopServer(ts *testscript.TestScript, neg bool, args []string) {
	signal := os.Signal(syscall.SIGTERM)
	kill := len(args) > 0 && args[0] == "-kill"
	if kill {
		signal, args = os.Kill, args[1:]
	}
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: stopserver [-kill] NAME [LOGFILE]")
	}
	s := ts.Value(scriptServers{}).(map[string]*scriptServer)[args[0]]
	if s == nil {
		ts.Fatalf("no server %s", args[0])
	}
	ts.Check(s.cmd.Process.Signal(signal))
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		ts.Fatalf("server %s does not stop\n%s", args[0], tail(s.log.String()))
	}
	if len(args) == 2 {
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(s.log.String()), 0o600))
	}
	if kill {
		return
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		ts.Fatalf("server %s: exit status %d\n%s", args[0], code, tail(s.log.String()))
	}
	if strings.Count(s.out.String(), "\n") != 1 {
		ts.Fatalf("server %s printed more than its one line: %q", args[0], s.out)
	}
}

// random FILE SIZE makes a file of random content with a hole in its middle.
func scriptRandom(ts *testscript.TestScript, neg bool, args []string) {
	var n byteSize
	if neg || len(args) != 2 || n.Set(args[1]) != nil {
		ts.Fatalf("usage: random FILE SIZE")
	}
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	ts.Check(f.Truncate(int64(n)))
	rng := rand.NewChaCha8([32]byte{byte(len(args[0]))})
	for _, at := range []int64{0, int64(n) / 3 * 2} {
		_, err := io.Copy(io.NewOffsetWriter(f, at), io.LimitReader(rng, int64(n)/3))
		ts.Check(err)
	}
}

// damage FILE OFFSET changes a byte.
func scriptDamage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: damage FILE OFFSET")
	}
	at, err := strconv.ParseInt(args[1], 0, 64)
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	ts.Check(err)
	b[0] ^= 0x55
	_, err = f.WriteAt(b[:], at)
	ts.Check(err)
}

// same A B wants two files of equal content.
func scriptSame(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] same A B")
	}
	a, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if bytes.Equal(a, b) == neg {
		ts.Fatalf("%s and %s: the same is %v", args[0], args[1], !neg)
	}
}

// json FILE KEY[=VALUE]... wants valid JSON without a top-level null, and keys,
// a.b.0 for nested ones, that are there or have a value. Without keys, validity
// is all. FILE may be stdout.
func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: [!] json FILE KEY[=VALUE]...")
	}
	var v any
	text := ts.ReadFile(args[0])
	if err := json.Unmarshal([]byte(text), &v); err != nil || v == nil {
		ts.Fatalf("no JSON value: %v\n%s", err, text)
	}
	for _, arg := range args[1:] {
		key, want, valued := strings.Cut(arg, "=")
		got, found := jsonAt(v, strings.Split(key, "."))
		ok := found && (!valued || fmt.Sprint(got) == want)
		if ok == neg {
			ts.Fatalf("%s is %v (there: %v) in\n%s", key, got, found, text)
		}
	}
}

func jsonAt(v any, path []string) (any, bool) {
	for _, p := range path {
		switch c := v.(type) {
		case map[string]any:
			next, ok := c[p]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(p)
			if err != nil || i >= len(c) {
				return nil, false
			}
			v = c[i]
		default:
			return nil, false
		}
	}
	if f, ok := v.(float64); ok { // no exponents
		return strconv.FormatFloat(f, 'f', -1, 64), true
	}
	return v, true
}

// eventually PROGRAM ARGS... runs a program until it succeeds (or, negated,
// fails), for ten seconds.
func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: [!] eventually PROGRAM ARGS...")
	}
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); (err == nil) != neg {
			return
		}
	}
	ts.Fatalf("still %v", err)
}

// freeport NAME sets $NAME to a port nothing listens on.
func scriptFreePort(ts *testscript.TestScript, _ bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ts.Setenv(args[0], port)
}

// holdport NAME sets $NAME to a port that is taken until the script ends.
func scriptHoldPort(ts *testscript.TestScript, _ bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ts.Setenv(args[0], port)
}

// lines FILE LEAST MOST wants that many lines.
func scriptLines(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: lines FILE LEAST MOST")
	}
	least, err := strconv.Atoi(args[1])
	ts.Check(err)
	most, err := strconv.Atoi(args[2])
	ts.Check(err)
	if n := strings.Count(ts.ReadFile(args[0]), "\n"); n < least || n > most {
		ts.Fatalf("%d lines, want %d to %d:\n%s", n, least, most, ts.ReadFile(args[0]))
	}
}
