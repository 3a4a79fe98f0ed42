package nbd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// certificates makes an authority, a server and a client of it, in a folder as
// libnbd wants it, and the server's configuration.
func certificates(tb testing.TB) (folder string, server *tls.Config) {
	tb.Helper()
	folder = tb.TempDir()
	var ca *x509.Certificate
	var caKey *ecdsa.PrivateKey
	pool := x509.NewCertPool()
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(tb, err)
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
			DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		if name == "ca" {
			c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.DNSNames = true, x509.KeyUsageCertSign, nil, nil
			ca, caKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
		must(tb, err)
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		must(tb, err)
		certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
		must(tb, os.WriteFile(filepath.Join(folder, name+"-cert.pem"), certPEM, 0o600))
		must(tb, os.WriteFile(filepath.Join(folder, name+"-key.pem"), keyPEM, 0o600))
		switch name {
		case "ca":
			pool.AppendCertsFromPEM(certPEM)
		case "server":
			pair, err := tls.X509KeyPair(certPEM, keyPEM)
			must(tb, err)
			server = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
		}
	}
	return folder, server
}

func clientTLS(tb testing.TB, folder string) *tls.Config {
	tb.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "client-cert.pem"), filepath.Join(folder, "client-key.pem"))
	must(tb, err)
	ca, err := os.ReadFile(filepath.Join(folder, "ca-cert.pem"))
	must(tb, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: "localhost"}
}

// TestTLS: off a unix socket nothing but STARTTLS is answered before it, nothing
// is kept from before it, and nothing may be slipped in between.
func TestTLS(t *testing.T) {
	folder, conf := certificates(t)
	s := NewServer(Options{TLS: conf})
	_, err := s.Add(memExport(1 << 20))
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	serve(t, s, l)
	unixListener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	must(t, err)
	serve(t, s, unixListener)
	connect(t, unixListener.Addr().String(), "", true).ok(0, cmdRead, 0, 512) // no TLS there

	open := func() *client {
		nc, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		c := greet(t, nc)
		c.put(uint32(flagFixedNewstyle | flagNoZeroes))
		return c
	}
	c := open()
	for _, opt := range []uint32{optList, optInfo, optGo, optStructuredReply, optSetMetaContext, 99} {
		if r := c.option(opt); last(r) != repErrTLSReqd {
			t.Errorf("option %d without TLS: %#x", opt, last(r))
		}
	}
	if r := c.option(optStartTLS, []byte{1}); last(r) != repErrInvalid {
		t.Errorf("STARTTLS with data: %#x", last(r))
	}
	c.mustOption(optStartTLS)
	tc := tls.Client(c.Conn, clientTLS(t, folder))
	must(t, tc.Handshake())
	c.Conn = tc
	if r := c.option(optStartTLS); last(r) != repErrInvalid {
		t.Errorf("second STARTTLS: %#x", last(r))
	}
	if r := c.option(optSetMetaContext, metaData("", contextAllocation)); last(r) != repErrInvalid {
		t.Errorf("contexts: %#x", last(r))
	}
	c.structured = true
	c.mustOption(optStructuredReply)
	c.mustOption(optGo, goData(""))
	data := make([]byte, 300<<10)
	for i := range data {
		data[i] = byte(i)
	}
	c.ok(0, cmdWrite, 0, uint32(len(data)), data)
	for i := range uint64(50) {
		if got := c.ok(0, cmdRead, i*512, 100<<10); string(got) != string(data[i*512:i*512+100<<10]) {
			t.Fatal("other content")
		}
	}

	c = open()
	c.put(optionBytes(optExportName))
	c.wantEnd()
	c = open()
	c.put(optionBytes(optStartTLS), optionBytes(optList)) // in one packet
	c.wantEnd()
	c = open()
	c.mustOption(optStartTLS)
	c.put([]byte("this is no TLS, and never will be"))
	c.wantEnd()
	stranger := clientTLS(t, folder)
	stranger.Certificates = nil
	c = open()
	c.mustOption(optStartTLS)
	tc = tls.Client(c.Conn, stranger)
	if err := tc.Handshake(); err == nil {
		if _, err := tc.Read(make([]byte, 1)); err == nil {
			t.Error("a client without a certificate is served")
		}
	}
}

// TestPlain: without TLS nothing but a unix socket is served, unless that is wanted.
func TestPlain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	if err := NewServer(Options{}).Serve(t.Context(), l); !errors.Is(err, ErrPlain) {
		t.Errorf("serve: %v", err)
	}
	l, err = net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := NewServer(Options{AllowPlain: true})
	_, err = s.Add(ExportOptions{Device: block.NewMem(1 << 20)})
	must(t, err)
	serve(t, s, l)
	nc, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	c := greet(t, nc)
	c.enter("", true)
	c.ok(0, cmdRead, 0, 4096)
}
