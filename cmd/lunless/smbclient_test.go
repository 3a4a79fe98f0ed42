package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func hashFile(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// randomFile makes a file of n bytes, random at the start of each stride.
func randomFile(t *testing.T, n, stride int64) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "random-*")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	rng := rand.NewChaCha8([32]byte{1})
	for off := int64(0); off < n; off += stride {
		b := block[:min(int64(len(block)), n-off)]
		rng.Read(b)
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(n); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// TestSmbclient does with Samba's client what people do with a share, under
// each way of protecting the messages.
func TestSmbclient(t *testing.T) {
	s := serve(t, "--share", "sealed="+t.TempDir()+",encrypt", "--min-dialect", "2.0.2")
	source := randomFile(t, 9<<20+123, 1<<20)
	for _, mode := range []struct {
		name, share string
		flags       []string
	}{
		{"signed", "vms", nil},
		{"sealed share", "sealed", []string{"--client-protection=encrypt"}},
		{"sealed by the client", "vms", []string{"--client-protection=encrypt"}},
		{"SMB 3.0", "vms", []string{"-m", "SMB3_00"}},
		{"SMB 3.0 sealed", "vms", []string{"-m", "SMB3_00", "--client-protection=encrypt"}},
		{"SMB 3.0.2", "vms", []string{"-m", "SMB3_02"}},
		{"SMB 2.1", "vms", []string{"-m", "SMB2_10"}},
		{"SMB 2.0.2", "vms", []string{"-m", "SMB2_02"}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			back := filepath.Join(t.TempDir(), "back")
			out, err := s.smbclient(t, mode.share, fmt.Sprintf(`mkdir "A Folder"; cd "A Folder"; put "%s" Disk.vhdx; ls; allinfo disk.VHDX;`+
				` rename Disk.vhdx other.vhdx; get other.vhdx "%s"; del other.vhdx; ls; cd ..; rmdir "a folder"; ls`, source, back), mode.flags...)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if hashFile(t, back) != hashFile(t, source) {
				t.Error("the file came back changed")
			}
			for _, want := range []string{"Disk.vhdx", "9437307", "create_time:", "blocks of size"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if strings.Contains(out, "NT_STATUS_") {
				t.Errorf("an error in\n%s", out)
			}
		})
	}
}

func TestSmbclientLargeFolder(t *testing.T) {
	s := serve(t)
	const files = 10_000
	many := filepath.Join(s.vms, "Many")
	if err := os.Mkdir(many, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(many, fmt.Sprintf("File-%05d.txt", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := s.smbclient(t, "vms", "cd many; ls; allinfo fILE-07777.TXT; ls file-0999?.txt")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(out, "File-"); n < files+10 {
		t.Errorf("%d of %d names listed", n, files+10)
	}
	if !strings.Contains(out, "create_time:") || strings.Contains(out, "NT_STATUS") {
		t.Errorf("look-up by another case failed:\n%s", tail(out))
	}
}

func TestSmbclientLists(t *testing.T) {
	s := serve(t, "--share", "backup="+t.TempDir()+",ro")
	for _, flags := range [][]string{nil, {"-N", "-U", "%"}} { // with the account, and anonymously
		out, err := s.run(t, "smbclient", append([]string{"-L", s.host, "-p", s.port}, flags...)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, want := range []string{"vms", "backup", "IPC$"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %s in\n%s", want, out)
			}
		}
	}
}

// TestSmbclientRefused has the status the specification names for each.
func TestSmbclientRefused(t *testing.T) {
	s := serve(t, "--share", "ro="+t.TempDir()+",ro", "--share", "sealed="+t.TempDir()+",encrypt")
	for _, c := range []struct {
		name, share, command string
		flags                []string
		want                 string
	}{
		{"wrong password", "vms", "ls", []string{"-U", testUser + "%wrong"}, "NT_STATUS_LOGON_FAILURE"},
		{"unknown user", "vms", "ls", []string{"-U", "nobody%x"}, "NT_STATUS_LOGON_FAILURE"},
		{"anonymous on a disk share", "vms", "ls", []string{"-N", "-U", "%"}, "NT_STATUS_ACCESS_DENIED"},
		{"unknown share", "nothing", "ls", nil, "NT_STATUS_BAD_NETWORK_NAME"},
		{"write to a read-only share", "ro", "mkdir x", nil, "NT_STATUS_ACCESS_DENIED"},
		{"sealed share, client that cannot", "sealed", "ls", []string{"-m", "SMB3_11", "--client-protection=sign", "--option=client smb3 encryption algorithms=none"}, "NT_STATUS_ACCESS_DENIED"},
		{"SMB1 only", "vms", "ls", []string{"-m", "NT1", "--option=client min protocol=NT1"}, "NT_STATUS_"},
		{"dialect below the minimum", "vms", "ls", []string{"-m", "SMB2_10"}, "NT_STATUS_NOT_SUPPORTED"},
		{"NTLMv1", "vms", "ls", []string{"-U", testUser + "%" + testPassword, "--option=client ntlmv2 auth=no", "--option=client lanman auth=yes"}, "NT_STATUS_LOGON_FAILURE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := s.smbclient(t, c.share, c.command, c.flags...)
			if !strings.Contains(out, c.want) { // the exit status is 0 where only a command failed
				t.Errorf("got %v, want %s in\n%s", err, c.want, out)
			}
		})
	}
	if out, err := s.smbclient(t, "vms", "ls"); err != nil {
		t.Errorf("after the refusals: %v\n%s", err, out)
	}
}
