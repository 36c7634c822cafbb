package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"sync"
	"time"
)

// authority signs the certificates of the lab's origins, one for each name when it is first asked for.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey // the origins use it too: nothing here is secret
	pem  []byte

	mu        sync.Mutex
	issued    map[string]*tls.Certificate
	responder string             // URL of the OCSP responder that certificates name; "" for none
	between   map[string]between // by name, see HideIssuer
}

// between is an authority in between, with the key of the first.
type between struct {
	cert *x509.Certificate
	at   string // URL of cert
}

const validity = 30 * 24 * time.Hour

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vifproxy lab authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := &authority{key: key, issued: map[string]*tls.Certificate{}, between: map[string]between{}}
	if a.cert, err = a.issue(template, template); err != nil {
		return nil, err
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	return a, nil
}

// issue issues a certificate for the one key that there is.
func (a *authority) issue(template, issuer *x509.Certificate) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// certificate issues a certificate for the name that a client asks for, or for the address it connected to.
func (a *authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := hello.ServerName
	template := &x509.Certificate{
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if name != "" {
		template.DNSNames = []string{name}
	} else {
		ip := hello.Conn.LocalAddr().(*net.TCPAddr).IP
		name, template.IPAddresses = ip.String(), []net.IP{ip}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if cert := a.issued[name]; cert != nil {
		return cert, nil
	}
	template.SerialNumber = big.NewInt(int64(len(a.issued)) + 2)
	issuer := a.cert
	if b, ok := a.between[name]; ok {
		issuer, template.IssuingCertificateURL = b.cert, []string{b.at}
	} else if a.responder != "" {
		template.OCSPServer = []string{a.responder}
	}
	cert, err := a.issue(template, issuer)
	if err != nil {
		return nil, err
	}
	a.issued[name] = &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: a.key}
	return a.issued[name], nil
}
