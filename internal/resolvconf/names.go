package resolvconf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"vifproxy/internal/regular"
	"vifproxy/internal/unanswered"
	"vifproxy/names/wire"
)

const (
	// confMax is how long resolv.conf may be.
	confMax = 64 << 10

	// domainsMax is how many domains of it are appended to names.
	domainsMax = 16

	// dotsMax is the highest number of dots (RES_MAXNDOTS in glibc's resolv.h).
	dotsMax = 15

	// hostsMax is how long hosts(5) may be, and hostLinesMax how many lines of it count.
	hostsMax     = 1 << 20
	hostLinesMax = 4096

	// domainMax is how long a name or a domain may be (RFC 1035, without the period at its end).
	domainMax = 253
)

// Files are those that a [Reader] of this machine reads.
var Files = []string{"/etc/resolv.conf", "/etc/hosts"}

// A Reader reads what this machine says about names. It remembers what it has read.
type Reader struct {
	conf, hosts string // files
	hostName    func() (string, error)
	known       wire.Settings
	ownSearch   bool  // known.Search is that of resolv.conf
	problem     error // see Problem

	unanswered unanswered.Questions // by path
}

// NewReader returns a Reader of two files, resolv.conf(5) and hosts(5). Until resolv.conf is read, it knows of no name server.
func NewReader(conf, hosts string) *Reader {
	return &Reader{conf: conf, hosts: hosts, hostName: os.Hostname, known: wire.Settings{Dots: 1}}
}

// Read returns what is known now, with PinHosts false. If a file cannot be read, what it said before stays known. The error is about
// resolv.conf.
func (r *Reader) Read() (wire.Settings, error) {
	var failed error
	if text, err := r.read(r.conf, confMax); err == nil {
		r.known.Servers, r.known.Search, r.known.Dots = parseConf(text)
		r.ownSearch = r.known.Search != nil
	} else {
		failed = fmt.Errorf("read name servers: %w", err)
	}
	name, nameErr := r.hostName()
	if nameErr == nil {
		_, domain, _ := strings.Cut(name, ".")
		r.known.Domain = domainOf(domain)
	}
	if !r.ownSearch { // resolv.conf(5): "By default, the search list contains one entry, the local domain name"
		r.known.Search = nil
		if r.known.Domain != "" {
			r.known.Search = []string{r.known.Domain}
		}
	}
	text, err := r.read(r.hosts, hostsMax)
	if err == nil || errors.Is(err, errTooLong) {
		var more bool
		if r.known.Hosts, more = parseHosts(text); more {
			err = errors.Join(err, fmt.Errorf("%s: only its first %d lines count", r.hosts, hostLinesMax))
		}
	}
	r.problem = errors.Join(nameErr, err)
	return r.known, failed
}

// Problem returns what is wrong with hosts(5) or the host name, without which other names are answered; nil if nothing is.
func (r *Reader) Problem() error { return r.problem }

// fileTimeout is how long a Reader waits for a file, which may be a link to a file system that does not answer.
const fileTimeout = 2 * time.Second

// read is the function read, for such files.
func (r *Reader) read(path string, most int) (string, error) {
	type answer struct {
		text string
		err  error
	}
	a, ok := unanswered.Ask(&r.unanswered, path, fileTimeout, func() (a answer) {
		a.text, a.err = read(path, most)
		return a
	})
	if !ok {
		return "", fmt.Errorf("%s is on a file system that does not answer", path)
	}
	return a.text, a.err
}

var errTooLong = errors.New("too long")

// read returns the text of a file: "" if it is not there. If it is too long, read returns the whole lines that fit, with errTooLong.
func read(path string, most int) (string, error) {
	file, _, err := regular.Open(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := regular.ReadAll(file, int64(most)+1)
	if err == nil && len(text) > most {
		text = text[:strings.LastIndexByte(string(text[:most]), '\n')+1]
		err = fmt.Errorf("%s is %w: more than %d bytes", path, errTooLong, most)
	}
	return string(text), err
}

// parseConf reads resolv.conf(5). Of several lines search or domain, the last one counts. search is nil if there is none.
func parseConf(text string) (servers []netip.Addr, search []string, dots int) {
	dots = 1
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if i := slices.IndexFunc(words, func(w string) bool { return w[0] == '#' || w[0] == ';' }); i >= 0 {
			words = words[:i]
		}
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			addr, err := netip.ParseAddr(words[1])
			if addr = addr.Unmap().WithZone(""); err == nil && len(servers) < asked && !slices.Contains(servers, addr) {
				servers = append(servers, addr)
			}
		case "domain", "search":
			search = []string{}
			for _, word := range words[1:] {
				if domain := domainOf(word); domain != "" && len(search) < domainsMax {
					search = append(search, domain)
				}
			}
			if words[0] == "domain" {
				search = search[:min(1, len(search))]
			}
		case "options":
			for _, word := range words[1:] {
				if number, ok := strings.CutPrefix(word, "ndots:"); ok {
					if n, err := strconv.Atoi(number); err == nil && n >= 0 {
						dots = min(n, dotsMax)
					}
				}
			}
		}
	}
	if servers == nil {
		servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return servers, search, dots
}

// parseHosts reads hosts(5), and reports whether there is more than it reads. A line that makes no sense is left out, as the C library does.
func parseHosts(text string) (hosts []wire.Host, more bool) {
	n := 0
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		if n++; n > hostLinesMax {
			return hosts, true
		}
		addr, err := netip.ParseAddr(words[0])
		if err != nil {
			continue
		}
		host := wire.Host{Addr: addr.Unmap().WithZone("")}
		for _, word := range words[1:] {
			if name := domainOf(word); name != "" {
				host.Names = append(host.Names, name)
			}
		}
		if len(host.Names) > 0 {
			hosts = append(hosts, host)
		}
	}
	return hosts, false
}

// domainOf returns a name without the period at its end; "" if it is too long, or the root.
func domainOf(word string) string {
	word = strings.TrimSuffix(word, ".")
	if len(word) > domainMax {
		return ""
	}
	return word
}
