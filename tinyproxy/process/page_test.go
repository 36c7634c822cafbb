package process

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"vifproxy/tinyproxy"
)

// answer is all that the proxy sends back.
func answer(t *testing.T, p *Proxy, text string) string {
	t.Helper()
	conn := dial(t, p.Spec.Listen)
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	if _, err := io.Copy(&all, conn); err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestNothingOfTheClientIsOnThePage has a real proxy refuse what would be markup, a shell command or one of
// tinyproxy's own variables: the page is the same every time, and that written for its AppVM.
func TestNothingOfTheClientIsOnThePage(t *testing.T) {
	l := newLauncher(t, nil)
	p := start(t, l, realBinary, newSpec(l, "social", 61000))
	page := strings.ReplaceAll(errorPages[0].text(p.Spec), "{cause}", "Filtered")
	for _, must := range []string{
		"vifproxyctl denied social<", "vifproxyctl allow social <", p.Spec.Addr.String(), "127.0.0.1",
	} {
		if !strings.Contains(page, must) {
			t.Errorf("%q is not on the page:\n%s", must, page)
		}
	}
	const script = "<script>alert(1)</script>"
	for _, request := range []string{
		"GET http://shop.example/ HTTP/1.0\r\n\r\n",
		"GET http://" + script + "/ HTTP/1.0\r\n\r\n",
		"GET http://shop.example/" + script + " HTTP/1.0\r\nX: " + script + "\r\n\r\n",
		"GET http://{url}{request}$(id)/ HTTP/1.0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: " + script + "{url}\r\n\r\n",
		"GET http://shop.example/ HTTP/1.1\r\nHost: \"><img src=x onerror=alert(1)>\r\n\r\n",
		"CONNECT " + script + ":443 HTTP/1.1\r\n\r\n",
		script + " http://" + script + ".example/ HTTP/1.0\r\n\r\n",
	} {
		head, body, _ := strings.Cut(answer(t, p, request), "\r\n\r\n")
		if !strings.Contains(head, " 403 Filtered\r\n") || strings.Contains(head, "alert") {
			t.Errorf("%q: header %q", request, head)
		}
		if body != page {
			t.Errorf("%q: body\n%s", request, body)
		}
	}
}

// TestPagesRunTheirOwnScriptOnly: a browser runs a script whose hash the policy names, and no other.
func TestPagesRunTheirOwnScriptOnly(t *testing.T) {
	for _, p := range errorPages {
		page := p.text(rendered{Spec: newSpec(newLauncher(t, nil), "a-b_c.d", 61000)})
		scripts := regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindAllStringSubmatch(page, -1)
		if len(scripts) != 1 {
			t.Fatalf("%d scripts", len(scripts))
		}
		hash := sha256.Sum256([]byte(scripts[0][1]))
		policy := fmt.Sprintf(`"default-src 'none'; script-src 'sha256-%s'"`, base64.StdEncoding.EncodeToString(hash[:]))
		if !strings.Contains(page, policy) {
			t.Errorf("no %s:\n%s", policy, page)
		}
		// The variables are tinyproxy's constants, and no other brace is there for any version to misread.
		if rest := strings.ReplaceAll(page, "{cause}", ""); strings.ContainsAny(rest, "{}") {
			t.Errorf("a brace:\n%s", rest)
		}
		for line := range strings.Lines(page) {
			if len(line) > 1000 { // tinyproxy reads 4095 bytes at a time, and looks for variables in each
				t.Errorf("a line of %d bytes", len(line))
			}
		}
	}
}

// TestAHostThatIsNotReachedHasAPage: also there nothing is of the client.
func TestAHostThatIsNotReachedHasAPage(t *testing.T) {
	l := newLauncher(t, nil)
	spec := newSpec(l, "social", 61000)
	spec.Rules = []tinyproxy.FilterLine{{Text: "^127", Number: 1}}
	p := start(t, l, realBinary, spec)
	head, body, _ := strings.Cut(answer(t, p, "GET http://127.0.0.1:1/ HTTP/1.0\r\n\r\n"), "\r\n\r\n")
	if want := strings.ReplaceAll(errorPages[1].text(p.Spec), "{cause}", "Unable to connect"); body != want ||
		!strings.Contains(head, " 500 Unable to connect") || !strings.Contains(body, "vifproxyctl denied social<") {
		t.Errorf("%s\n%s\nwant\n%s", head, body, want)
	}
}

// TestTemplatesOwnPageStays where it has one.
func TestTemplatesOwnPageStays(t *testing.T) {
	for line, own := range map[string]bool{
		`ErrorFile 403 "/etc/page.html"`:      true,
		`errorfile	 403	"/etc/page.html"`:     true,
		`DefaultErrorFile "/etc/page.html"`:   true,
		`ErrorFile 404 "/etc/page.html"`:      false,
		`# ErrorFile 403 "/etc/page.html"`:    false,
		`StatFile "/usr/share/tinyproxy/403"`: false,
	} {
		l := newLauncher(t, nil)
		spec := newSpec(l, "social", 61000, line)
		p := start(t, l, realBinary, spec)
		ours := strings.Contains(read(t, l.options.RuntimeDir, "social/61000/config"), "refused.html")
		p.Kill()
		if ours == own {
			t.Errorf("with %s: our page is used: %t", line, ours)
		}
	}
}

// The command on the page is about the port that was asked for too: without it the request would be refused all the same.
func TestTheCommandOnThePageHasThePort(t *testing.T) {
	if !strings.Contains(refusedHTML, "asked = location.host;") {
		t.Error("the page does not ask the browser for host and port")
	}
	match := regexp.MustCompile(`if \(/(\S+)/\.test\(asked\)\) document\.getElementById\("argument"\)\.textContent = asked;`).FindStringSubmatch(refusedHTML)
	if match == nil {
		t.Fatal("the page shows what was not looked at")
	}
	plain := regexp.MustCompile(match[1])
	for host, want := range map[string]bool{"shop.example": true, "shop.example:8080": true, "192.168.1.5:81": true,
		"$(id).example": false, "shop.example:": false, "shop.example:8080;id": false, "": false} {
		if plain.MatchString(host) != want {
			t.Errorf("%q in the command: %v", host, !want)
		}
	}
}
