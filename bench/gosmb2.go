package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	cloudsoda "github.com/cloudsoda/go-smb2"
	hirochachacha "github.com/hirochachacha/go-smb2"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// Client names who speaks SMB for a target. The others are what our own is
// measured against; they take a raw file that exists.
type Client string

// Clients that a target can be opened with.
const (
	Own           Client = "lunless"
	GoSMB2        Client = "go-smb2"       // cloudsoda/go-smb2
	Hirochachacha Client = "hirochachacha" // hirochachacha/go-smb2
)

// Clients lists them.
var Clients = []Client{Own, GoSMB2, Hirochachacha}

// goFile is what the files of both go-smb2 do.
type goFile interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Sync() error
	Truncate(size int64) error
	Stat() (os.FileInfo, error)
	Close() error
}

// goBlock makes a block.File of one.
type goBlock struct{ goFile }

func (f goBlock) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// openForeign opens a raw file with one of the other clients, a connection each
// time.
func (t *Target) openForeign(ctx context.Context, l smbstore.Location, o TargetOptions) error {
	cred, err := o.Store.ResolveCredentials(ctx, l)
	if err != nil {
		return err
	}
	dial := dialCloudsoda
	if o.Client == Hirochachacha {
		dial = dialHirochachacha
	}
	for range max(o.Connections, 1) {
		f, end, err := dial(ctx, l, cred, o.Store.RequireSigning)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", o.Client, l, err)
		}
		t.close = append(t.close, end)
		dev, err := block.NewRaw(goBlock{f}, block.RawOptions{})
		if err != nil {
			return err
		}
		t.addDevice(dev)
	}
	return nil
}

func windowsPath(l smbstore.Location) string { return strings.ReplaceAll(l.Path, "/", `\`) }

func dialCloudsoda(ctx context.Context, l smbstore.Location, cred smbstore.Credentials, sign bool) (goFile, func() error, error) {
	d := cloudsoda.Dialer{
		Negotiator: cloudsoda.Negotiator{RequireMessageSigning: sign},
		Initiator:  &cloudsoda.NTLMInitiator{User: cred.User, Password: cred.Password, Domain: cred.Domain},
	}
	s, err := d.Dial(ctx, l.Addr())
	if err != nil {
		return nil, nil, err
	}
	share, err := s.Mount(l.Share)
	if err != nil {
		_ = s.Logoff()
		return nil, nil, err
	}
	f, err := share.OpenFile(windowsPath(l), os.O_RDWR, 0o666)
	if err != nil {
		_ = s.Logoff()
		return nil, nil, err
	}
	return f, s.Logoff, nil
}

func dialHirochachacha(ctx context.Context, l smbstore.Location, cred smbstore.Credentials, sign bool) (goFile, func() error, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr())
	if err != nil {
		return nil, nil, err
	}
	d := hirochachacha.Dialer{
		Negotiator: hirochachacha.Negotiator{RequireMessageSigning: sign},
		Initiator:  &hirochachacha.NTLMInitiator{User: cred.User, Password: cred.Password, Domain: cred.Domain},
	}
	s, err := d.DialContext(ctx, nc)
	if err != nil {
		_ = nc.Close()
		return nil, nil, err
	}
	share, err := s.Mount(l.Share)
	if err != nil {
		_ = s.Logoff()
		return nil, nil, err
	}
	f, err := share.OpenFile(windowsPath(l), os.O_RDWR, 0o666)
	if err != nil {
		_ = s.Logoff()
		return nil, nil, err
	}
	return f, s.Logoff, nil
}
