package rules

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestParseHost(t *testing.T) {
	for text, want := range map[string]string{
		"www.bank.example": "www.bank.example", "https://www.bank.example/x?y#z": "www.bank.example",
		"WWW.Bank.Example.": "www.bank.example", "bank.example:8443": "bank.example:8443", "bücher.example": "xn--bcher-kva.example",
		"http://user:pw@bank.example:80/": "bank.example", "*.bank.example": "*.bank.example", "bank.example/x": "bank.example",
		"https://bank.example:8443/x": "bank.example:8443", "https://bank.example:443/": "bank.example", "bank.example:80": "bank.example",
		"ws://bank.example/": "bank.example:80", "wss://bank.example/": "bank.example", "http://*.bank.example:443": "*.bank.example:443",
		"192.0.2.1": "192.0.2.1", "http://192.0.2.1:8080/": "192.0.2.1:8080",
	} {
		if h, err := ParseHost(text); err != nil || h.String() != want {
			t.Errorf("%s: %s, %v", text, h, err)
		}
	}
	for text, want := range map[string]string{
		"bank.example:0": "no port from 1", "bank.example:x": "no port from 1", "*.192.0.2.1": "no names below", "[2001:db8::1]:443": "IPv6",
		"2001:db8::1": "IPv6", "*": "is not a host name", "": "is not a host name", "^a$": "is a pattern, not a host name", "127.1": "an address",
		"ftp://bank.example/": "does not speak", "mailto:x@bank.example": "behind the '@'", "x@bank.example": "behind the '@'",
		"10.0.0.0/8": "is a network", "192.168.1.5/32": "is a network", "2001:db8::/32": "is a network",
		"https://": `"https://" is not a host name`, "//bank.example/x": `"//bank.example/x" is not`, "https:/bank.example": `"https:/bank.example" is not`,
		"https//bank.example": `"https//bank.example" is not`, "M\xfcller.example": "as UTF-8",
	} {
		_, err := ParseHost(text)
		checkError(t, text, err, want)
	}
	for text, want := range map[string]bool{"co.uk": true, "github.io": true, "com": true, "*.com": true,
		"localhost": true, "http://localhost/": true, "app.localhost": true, "127.0.0.1": true, "127.8.8.8:80": true, "0.0.0.0": true,
		"bank.co.uk": false, "me.github.io": false, "localhost.example": false, "printer": false, "192.0.2.1": false} {
		h, err := ParseHost(text)
		must(t, err)
		if (h.Objection() != "") != want {
			t.Errorf("%s: %q", text, h.Objection())
		}
	}
}

func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "bank.10.0.0.1"), filepath.Join(dir, "link")
	must(t, os.WriteFile(path, []byte("# mine\r\n^a$"), 0o640))
	must(t, os.Chown(path, 12, 34))
	must(t, os.Chmod(path, 0o640))
	must(t, os.Symlink("bank.10.0.0.1", link))
	must(t, Rewrite(link, func(old []byte) ([]byte, error) { return Append(old, []string{"^b$", "^c$"}), nil }))
	content, err := os.ReadFile(path)
	must(t, err)
	if string(content) != "# mine\r\n^a$\r\n^b$\r\n^c$\r\n" {
		t.Errorf("got %q", content)
	}
	info, err := os.Stat(path)
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 12 || st.Gid != 34 || info.Mode() != 0o640 {
		t.Errorf("owner %d, group %d, mode %v", st.Uid, st.Gid, info.Mode())
	}
	must(t, Rewrite(path, func(old []byte) ([]byte, error) {
		f, err := ParseFile(somePath, old)
		changed, _ := f.Without(old, Syntax{}, []Host{{Name: "b"}})
		return changed, err
	}))
	if content, _ := os.ReadFile(path); string(content) != "# mine\r\n^a$\r\n^c$\r\n" {
		t.Errorf("got %q", content)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); left != nil {
		t.Errorf("left behind: %q", left)
	}
	checkError(t, "none", Rewrite(filepath.Join(dir, "none"), nil), "no such file")
}
