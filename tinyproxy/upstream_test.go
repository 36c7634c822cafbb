package tinyproxy

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUpstreamAgreesWithTinyproxy asks a real tinyproxy, which logs what it decides, under many configurations.
func TestUpstreamAgreesWithTinyproxy(t *testing.T) {
	ofNames := []string{
		"Upstream http 127.0.0.1:1", "upstream http 127.0.0.1:2", `Upstream none "what/8"`,
		`Upstream http 127.0.0.1:3 ".corp.example"`, `Upstream none "www.corp.example"`, `UPSTREAM none ".Www.Corp.example"`,
		`Upstream http 127.0.0.1:4 "WWW.corp.Example"`, `Upstream none "."`,
		`Upstream http 127.0.0.1:5 "."`, `Upstream socks5 127.0.0.1:6 "corp.example"`,
	}
	ofAddresses := []string{
		`Upstream none "10.0.0.0/8"`, `Upstream none "10.1.0.0/255.255.0.0"`, `Upstream none "10.1.2.3/8"`,
		`Upstream none "10.1.2.3"`, `Upstream none "255.0.0.0/8"`, `Upstream none "0.0.0.0/0"`, `Upstream none "10.1.2.3/32"`,
		`Upstream http 127.0.0.1:7 "10.1.2.3"`, `Upstream http 127.0.0.1:8 "10.2.0.0/16"`,
	}
	names := []string{
		"corp.example", "www.corp.example", "a.www.corp.example", "xcorp.example", "corp.example.", "example", "b.example",
	}
	addresses := []string{"10.1.2.3", "10.2.0.1", "192.168.1.1"}
	random := rand.New(rand.NewPCG(6, 4))
	for n := range 60 {
		pool, hosts := ofNames, slices.Concat(names, addresses)
		if n%2 == 0 { // for what becomes of a name then, see siteMatches
			pool, hosts = slices.Concat(ofNames, ofAddresses), addresses
		}
		var lines []string
		for _, i := range random.Perm(len(pool))[:1+random.IntN(6)] {
			lines = append(lines, pool[i])
		}
		config, _, err := ParseConfig("", strings.Join(lines, "\n"))
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range decisions(t, lines, hosts) {
			got := "none"
			if up, ok := config.UpstreamFor(hosts[i]); ok {
				got = fmt.Sprintf("%s:%d", up.Host, up.Port)
			}
			if got != want {
				t.Errorf("%q for %s: %s, tinyproxy takes %s", lines, hosts[i], got, want)
			}
		}
	}
}

// TestNoUpstreamIsReadOtherwise: what tinyproxy reads in another way than its author, and than we, is refused.
func TestNoUpstreamIsReadOtherwise(t *testing.T) {
	hosts := []string{"www.corp.example", "b.example"}
	refused := 0
	for _, line := range []string{
		`Upstream none ".corp.example" # ours`, `Upstream none ".corp.example"x`, `Upstream none ".corp.example" http me:word@127.0.0.1:2`,
		"Upstream by http 127.0.0.1:2", `Upstream http 127.0.0.1:3 "b" http 127.0.0.1:2 ".corp.example"`, "Upstream http 127.0.0.1:65538",
		"Upstream http 127.0.0.1:0", `Upstream NONE ".corp.example"`, `Upstream http me:two words@127.0.0.1:2`, "Upstream\tsocks5\t127.0.0.1:2  ",
	} {
		lines := []string{"Upstream http 127.0.0.1:1", line}
		config, _, err := ParseConfig("", strings.Join(lines, "\n"))
		if err != nil {
			refused++
			continue
		}
		for i, want := range decisions(t, lines, hosts) {
			got := "none"
			if up, ok := config.UpstreamFor(hosts[i]); ok {
				got = fmt.Sprintf("%s:%d", up.Host, up.Port)
			}
			if got != want {
				t.Errorf("%q for %s: %s, tinyproxy takes %s", line, hosts[i], got, want)
			}
		}
	}
	if refused != 8 {
		t.Errorf("%d are refused", refused)
	}
}

var decision = regexp.MustCompile(`Found upstream proxy [a-z0-9]+ (\S+) for|No (upstream proxy) for`)

// decisions is where a tinyproxy with these lines sends requests for hosts.
func decisions(t *testing.T, lines, hosts []string) (all []string) {
	t.Helper()
	reserved, at, err := reserve()
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(reserved)
	path := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("Listen %s\nPort %d\nBind 127.0.0.1\nLogLevel Info\n%s\n", // so no request gets anywhere
		at.Addr(), at.Port(), strings.Join(lines, "\n"))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), realBinary, "-d", "-c", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // as it was killed
	}()
	if err := awaitListener(t.Context(), at, nil); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	for _, host := range hosts {
		if _, err := (Request{Host: host, Port: 80, URI: "/"}).send(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		var m []string
		for m == nil && said.Scan() {
			m = decision.FindStringSubmatch(said.Text())
		}
		switch {
		case m == nil:
			t.Fatalf("%q for %s: tinyproxy does not say what it does: %v", lines, host, said.Err())
		case m[2] != "":
			all = append(all, "none")
		default:
			all = append(all, m[1])
		}
	}
	return all
}
