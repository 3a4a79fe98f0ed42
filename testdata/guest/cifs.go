package guest

import (
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"strings"
)

//go:embed cifs-init.sh
var cifsInit []byte

// cifsModules is what the kernel's SMB client needs with every cipher and
// signing algorithm it knows.
var cifsModules = []string{"virtio_pci", "virtio_net", "cmac", "ccm", "gcm", "ctr", "ecb",
	"sha512_generic", "ghash_generic", "aesni_intel", "nls_utf8", "cifs"}

// Share says where the guest finds the share, from the host's view.
type Share struct {
	Port                 int // on the host's loopback
	Name, User, Password string
}

// Case is one mount of the share: a name and mount.cifs options.
type Case struct{ Name, Options string }

var resultLine = regexp.MustCompile(`(?m)^RESULT (\S+) (.*?)\r?$`)

// CIFS boots a guest that mounts the share once for each case and exercises it.
// It returns "ok" or what failed by the case's name, and the console.
func CIFS(ctx context.Context, kernelDir string, s Share, cases []Case) (results map[string]string, console string, err error) {
	vmlinuz, modules, err := Kernel(kernelDir)
	if err != nil {
		return nil, "", err
	}
	var list strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&list, "try %s %s\n", c.Name, c.Options)
	}
	cfg := fmt.Sprintf("SRV=10.0.2.2 SHARE='%s' PORT=%d USER='%s' PASS='%s'\n", s.Name, s.Port, s.User, s.Password)
	image, err := Initramfs(Spec{ModuleDir: modules, Modules: cifsModules, Init: cifsInit,
		Files: map[string][]byte{"cfg": []byte(cfg), "cases": []byte(list.String())}})
	if err != nil {
		return nil, "", err
	}
	console, err = Run(ctx, vmlinuz, image)
	results = map[string]string{}
	for _, m := range resultLine.FindAllStringSubmatch(console, -1) {
		results[m[1]] = m[2]
	}
	return results, console, err
}
