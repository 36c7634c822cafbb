package lab

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"io"
	"math/big"
	"net/http"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"
)

// maxQuestion is how many bytes of a question to a responder are read.
const maxQuestion = 4096

// NameResponder has certificates that are issued from now on name a responder of OCSP at a host, by HTTP. It returns the responder, for
// [Lab.Serve], which answers that they are good.
func (l *Lab) NameResponder(host string) http.Handler {
	a := l.net.authority
	a.mu.Lock()
	defer a.mu.Unlock()
	a.responder = "http://" + host + "/"
	return http.HandlerFunc(a.answerOCSP)
}

// answerOCSP answers as RFC 6960 says (appendix A).
func (a *authority) answerOCSP(w http.ResponseWriter, r *http.Request) {
	question, err := io.ReadAll(io.LimitReader(r.Body, maxQuestion))
	if r.Method == http.MethodGet {
		question, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(r.URL.Path, "/"))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	asked, err := ocsp.ParseRequest(question)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	now := time.Now()
	answer, err := ocsp.CreateResponse(a.cert, a.cert, ocsp.Response{Status: ocsp.Good, SerialNumber: asked.SerialNumber,
		IssuerHash: asked.HashAlgorithm, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour)}, a.key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/ocsp-response")
	w.Write(answer) //nolint:errcheck // the client may have gone
}

// HideIssuer has the certificate of a name be issued by an authority in between, whose certificate the origin does not send. The one of the
// name says at which host a client finds it, by HTTP (RFC 5280, 4.2.2.1). HideIssuer returns what that host has, for [Lab.Serve].
func (l *Lab) HideIssuer(name, host string) (http.Handler, error) {
	a := l.net.authority
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "vifproxy lab authority in between"},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := a.issue(template, a.cert)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.between[name] = between{cert, "http://" + host + "/issuer.crt"}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/pkix-cert")
		w.Write(cert.Raw) //nolint:errcheck // the client may have gone
	}), nil
}
