package shares

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lunless/smbstore/smb2"
)

// TestSmbclientConnects goes through every dialect, signed and encrypted, up to a
// tree connect and a listing.
func TestSmbclientConnects(t *testing.T) {
	srv := startServer(t, nil)
	if err := os.WriteFile(filepath.Join(srv.root, "disk0.vhdx"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dialect := range []string{"SMB2_02", "SMB2_10", "SMB3_00", "SMB3_02", "SMB3_11"} {
		for _, protect := range []string{"sign", "encrypt"} {
			if protect == "encrypt" && strings.HasPrefix(dialect, "SMB2") {
				continue
			}
			t.Run(dialect+"/"+protect, func(t *testing.T) {
				t.Parallel()
				out, err := srv.smbclient(t, "vms", "ls", "-m", dialect, "--option=client min protocol="+dialect,
					"--client-protection="+protect)
				if err != nil || !strings.Contains(out, "disk0.vhdx") {
					t.Fatalf("%v\n%s", err, out)
				}
			})
		}
	}
}

// TestSmbclientRefused shows each refusal with the status the specification names.
func TestSmbclientRefused(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.MinDialect = smb2.Dialect300 })
	tests := []struct {
		name  string
		share string
		args  []string
		want  string
	}{
		{"wrong password", "vms", []string{"-U", testUser + "%wrong"}, "NT_STATUS_LOGON_FAILURE"},
		{"unknown user", "vms", []string{"-U", "nobody%" + testPassword}, "NT_STATUS_LOGON_FAILURE"},
		{"unknown share", "nothing", nil, "NT_STATUS_BAD_NETWORK_NAME"},
		{"anonymous", "vms", []string{"-U", "%", "-N"}, "NT_STATUS_ACCESS_DENIED"},
		{"NTLMv1", "vms", []string{"--option=client NTLMv2 auth=no", "--option=client use spnego=yes"}, "NT_STATUS_LOGON_FAILURE"},
		{"SMB1", "vms", []string{"-m", "NT1", "--option=client min protocol=NT1"}, "protocol negotiation failed"},
		{"2.1 below the minimum", "vms", []string{"-m", "SMB2_10"}, "protocol negotiation failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out, err := srv.smbclient(t, tt.share, "ls", tt.args...)
			if err == nil || !strings.Contains(out, tt.want) {
				t.Fatalf("%v, want %s\n%s", err, tt.want, out)
			}
		})
	}
}

// TestSmbclientRoundTrip puts a file and gets it back, by hash.
func TestSmbclientRoundTrip(t *testing.T) {
	srv := startServer(t, nil)
	data := make([]byte, 5<<20+123)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(data)
	local := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(local, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, protect := range []string{"sign", "encrypt", "off"} {
		t.Run(protect, func(t *testing.T) {
			name := "file-" + protect
			back := filepath.Join(t.TempDir(), "back")
			out, err := srv.smbclient(t, "vms", fmt.Sprintf("put %s %s; get %s %s; ls", local, name, name, back),
				"--client-protection="+protect)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, path := range []string{back, filepath.Join(srv.root, name)} {
				got, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if sha256.Sum256(got) != sha256.Sum256(data) {
					t.Fatalf("%s differs: %d bytes", path, len(got))
				}
			}
		})
	}
}

func TestSmbclientReadOnlyShare(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Shares[0].ReadOnly = true })
	os.WriteFile(filepath.Join(srv.root, "there"), []byte("x"), 0o600)
	if out, err := srv.smbclient(t, "vms", "get there -"); err != nil || !strings.Contains(out, "x") {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, command := range []string{"put /etc/hostname new", "rm there", "mkdir folder"} {
		if out, err := srv.smbclient(t, "vms", command); !strings.Contains(out, "NT_STATUS_ACCESS_DENIED") &&
			!strings.Contains(out, "NT_STATUS_MEDIA_WRITE_PROTECTED") {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
	if entries, _ := os.ReadDir(srv.root); len(entries) != 1 {
		t.Errorf("share changed: %v", entries)
	}
}

// TestSmbclientEncryptedShare needs encryption for one share only.
func TestSmbclientEncryptedShare(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Shares[0].Encrypt = true })
	for _, tt := range []struct {
		dialect string
		ok      bool
	}{{"SMB2_10", false}, {"SMB3_00", true}, {"SMB3_11", true}} {
		out, err := srv.smbclient(t, "vms", "ls", "-m", tt.dialect)
		if (err == nil) != tt.ok || !tt.ok && !strings.Contains(out, "NT_STATUS_ACCESS_DENIED") {
			t.Errorf("%s: %v\n%s", tt.dialect, err, out)
		}
	}
}

// TestSmbclientEncryptedServer needs it for everything.
func TestSmbclientEncryptedServer(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Encrypt = true })
	for _, tt := range []struct {
		dialect string
		ok      bool
	}{{"SMB2_10", false}, {"SMB3_00", true}, {"SMB3_11", true}} {
		out, err := srv.smbclient(t, "vms", "ls", "-m", tt.dialect)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v\n%s", tt.dialect, err, out)
		}
	}
}
