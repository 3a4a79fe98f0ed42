package host

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"lunless/migrate/qemu"
	"lunless/smbstore"
)

// Config is the file `lunless host run --config` reads. Every key may be left out
// but data.
type Config struct {
	// Data is the agent's folder: which VMs it has, their sockets and logs. It is
	// absolute or made so, and short: the sockets in it have names of 107 bytes at most.
	Data string `toml:"data"`
	// Listen is the API's socket (default host.sock in Data).
	Listen string `toml:"listen"`
	// Name is the host's in ownership records (default this machine's). No two agents
	// have one name.
	Name string `toml:"name"`
	// Storage are the locations whose homes `vm list` shows and names are looked for in.
	Storage []string `toml:"storage"`
	// Credentials is a file as mount.cifs takes it.
	Credentials string `toml:"credentials"`
	// QEMU is the program (default qemu-system-x86_64 of PATH), Accel what runs the
	// guests: kvm, tcg, or "" for KVM where it works.
	QEMU  string `toml:"qemu"`
	Accel string `toml:"accel"`
	// StopGuests ends the guests with the agent, as their power button would; without,
	// they run on, and the next agent takes them over again.
	StopGuests bool `toml:"stop_guests"`
	// Migrations is how many storage migrations run at a time (default 2), the others
	// wait; MigrationRate is what they share, in bytes a second (default no limit).
	Migrations    int   `toml:"migrations"`
	MigrationRate int64 `toml:"migration_rate"`
	Log           Log   `toml:"log"`

	// Options open locations; Credentials goes before what they say.
	Options smbstore.Options `toml:"-" json:"-"`
	Logger  *slog.Logger     `toml:"-" json:"-"` // nil discards
}

// Log says what is logged and how.
type Log struct {
	Level  string `toml:"level"`  // debug, info (default), warn, error
	Format string `toml:"format"` // text (default) or json
}

// ErrConfig is wrapped by every error about an agent's configuration.
var ErrConfig = errors.New("bad host configuration")

// LoadConfig reads a TOML file. Unknown keys are errors.
func LoadConfig(name string) (Config, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return Config{}, fmt.Errorf("cannot read configuration: %w", err)
	}
	var c Config
	err = toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(&c)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		row, _ := strict.Errors[0].Position()
		err = fmt.Errorf("line %d: unknown key %s", row, strings.Join(strict.Errors[0].Key(), "."))
	}
	if err != nil {
		return Config{}, fmt.Errorf("%w: %s: %w", ErrConfig, name, err)
	}
	return c, nil
}

// socketRoom is what the longest socket below the data folder adds to its name.
const socketRoom = len("/run/") + 36 + len("/monitor.sock")

// maxSocket is how long a unix socket's name can be, in bytes.
const maxSocket = 107

// withDefaults fills in what is left out and checks the rest.
func (c Config) withDefaults() (Config, error) {
	bad := func(format string, args ...any) (Config, error) {
		return c, fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	if c.Data == "" {
		return bad("no data folder: give --data")
	}
	data, err := filepath.Abs(c.Data)
	if err != nil {
		return bad("data folder %s: %v", c.Data, err)
	}
	if c.Data = data; len(data)+socketRoom > maxSocket {
		return bad("the data folder's name %s is too long: at most %d bytes, for the sockets in it", data, maxSocket-socketRoom)
	}
	if c.Listen == "" {
		c.Listen = filepath.Join(c.Data, controlName)
	}
	if c.Name == "" {
		if c.Name, err = smbstore.HostName(); err != nil {
			return bad("%v", err)
		}
	}
	if c.Accel != "" && c.Accel != string(qemu.KVM) && c.Accel != string(qemu.TCG) {
		return bad("accel %q: there are %s and %s", c.Accel, qemu.KVM, qemu.TCG)
	}
	for _, s := range c.Storage {
		if _, err := smbstore.ParseLocation(s); err != nil {
			return bad("storage %q: %v", s, err)
		}
	}
	if c.Migrations < 0 || c.MigrationRate < 0 {
		return bad("%d migrations at a time, %d bytes a second", c.Migrations, c.MigrationRate)
	}
	if l := c.Log.Level; l != "" && new(slog.Level).UnmarshalText([]byte(l)) != nil {
		return bad("log level %q", l)
	}
	if f := c.Log.Format; f != "" && f != "text" && f != "json" {
		return bad("log format %q: there are text and json", f)
	}
	if c.Credentials != "" {
		c.Options.CredentialsFile = c.Credentials
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Options.Logger = c.Logger
	return c, nil
}
