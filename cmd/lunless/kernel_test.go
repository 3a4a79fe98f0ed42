package main

import (
	"context"
	"strconv"
	"testing"
	"time"

	"lunless/testdata/guest"
)

// TestKernelClient mounts a share with Linux's own SMB client, in a guest.
func TestKernelClient(t *testing.T) {
	t.Parallel()
	s := serve(t)
	port, err := strconv.Atoi(s.port)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cases := []guest.Case{
		{Name: "smb311", Options: "vers=3.1.1"},
		{Name: "smb311-seal", Options: "vers=3.1.1,seal"},
		{Name: "smb30", Options: "vers=3.0"},
		{Name: "smb30-seal", Options: "vers=3.0,seal"},
	}
	results, console, err := guest.CIFS(ctx, "../../.work/kernel",
		guest.Share{Port: port, Name: "vms", User: testUser, Password: testPassword}, cases)
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(console))
	}
	for _, c := range cases {
		if results[c.Name] != "ok" {
			t.Errorf("%s (%s): %q", c.Name, c.Options, results[c.Name])
		}
	}
	if t.Failed() {
		t.Log(console)
	}
}
