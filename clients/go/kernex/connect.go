// Package kernex connects to a Kernex control plane. The stubs of the contract, package
// kernex/v1, are made by protoc:
//
//	protoc -I proto --go_out=src --go-grpc_out=src proto/kernex/v1/*.proto
package kernex

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// A context file says where a control plane is, which one, and who calls; `kernexctl context
// export` writes it.
type contextFile struct {
	Server string `json:"server"`
	// SHA-256 of the CA's public key (SPKI, DER) in hex.
	Pin   string `json:"pin"`
	Token string `json:"token"`
}

// Connect returns a connection to the control plane of a context file, with its token on each
// call. It is made when the first call needs it.
func Connect(path string) (*grpc.ClientConn, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the context file: %w", err)
	}
	var file contextFile
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("the context file %s is not JSON: %w", path, err)
	}
	if file.Server == "" || file.Pin == "" || file.Token == "" {
		return nil, fmt.Errorf("the context file %s needs `server`, `pin` and `token`", path)
	}
	server, err := url.Parse(file.Server)
	if err != nil || server.Scheme != "https" || server.Hostname() == "" {
		return nil, fmt.Errorf("`%s` is not an address like https://kernex.example:7443", file.Server)
	}
	port := server.Port()
	if port == "" {
		port = "443"
	}
	pin, err := hex.DecodeString(file.Pin)
	if err != nil || len(pin) != sha256.Size {
		return nil, errors.New("`pin` is not a SHA-256 in hex")
	}
	return grpc.Dial(
		net.JoinHostPort(server.Hostname(), port),
		grpc.WithTransportCredentials(credentials.NewTLS(pinned(pin))),
		grpc.WithPerRPCCredentials(token(strings.TrimSpace(file.Token))),
	)
}

// What the standard library checks with the CAs of the system, with the pinned one instead: the
// chain, its dates, the name and that it is for servers.
func pinned(pin []byte) *tls.Config {
	check := func(state tls.ConnectionState) error {
		chain := state.PeerCertificates
		ca := chain[len(chain)-1]
		if seen := sha256.Sum256(ca.RawSubjectPublicKeyInfo); string(seen[:]) != string(pin) {
			return errors.New("the CA is not the one with the pin: this is another control plane")
		}
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(ca)
		for _, certificate := range chain[1:] {
			between.AddCert(certificate)
		}
		_, err := chain[0].Verify(x509.VerifyOptions{
			DNSName:       state.ServerName,
			Roots:         roots,
			Intermediates: between,
			KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		return err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The standard check would ask the CAs of the system; ours takes its place.
		InsecureSkipVerify: true,
		VerifyConnection:   check,
	}
}

// An operator's token, on each call.
type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

func (token) RequireTransportSecurity() bool { return true }
